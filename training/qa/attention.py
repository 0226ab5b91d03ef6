"""The teacher's mixer: gated softmax attention (after Hua et al. 2022) where `Mixer` has its scan, all else as there.

    [z | v | q | k] = in_proj u;  y = softmax(q k') silu(v);  out = out_proj rms(y * silu(z))
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from norm import rms_norm, weight_holder


def rotated(x):
    """Rotary positions (Su et al. 2021): x [B,H,T,K], pairs (i, i + K/2)."""
    T, half = x.shape[-2], x.shape[-1] // 2
    rate = 10000.0 ** (-torch.arange(half, device=x.device) / half)
    angle = torch.arange(T, device=x.device)[:, None] * rate
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.key = cfg.head // 2
        self.in_proj = nn.Linear(cfg.hidden, 2 * cfg.inner + 2 * cfg.heads * self.key, bias=False)
        self.norm = weight_holder(cfg.inner)
        self.out_proj = nn.Linear(cfg.inner, cfg.hidden, bias=False)
        nn.init.normal_(self.in_proj.weight, std=cfg.hidden ** -0.5)
        nn.init.normal_(self.out_proj.weight, std=(2 * cfg.hidden * cfg.layers) ** -0.5)

    def inputs(self, x, start, dtype):
        """z [B,T,D]; v [B,H,T,P], q and k [B,H,T,K]; which positions a position sees [B,1,T,T]."""
        cfg, (B, T, _) = self.cfg, x.shape
        keys = cfg.heads * self.key
        z, v, q, k = F.linear(x.to(dtype), self.in_proj.weight.to(dtype)).split([cfg.inner, cfg.inner, keys, keys], -1)
        heads = lambda t: t.view(B, T, cfg.heads, -1).transpose(1, 2)
        document = start.int().cumsum(1)
        sees = (document[:, :, None] == document[:, None]).tril()[:, None]
        return z, F.silu(heads(v)), rotated(heads(q)), rotated(heads(k)), sees

    def matrix(self, x, start, same, dtype):
        """The attention weights [B,H,T,T]."""
        _, _, q, k, sees = self.inputs(x, start, dtype)
        scores = (q @ k.transpose(-1, -2)).float() * self.key ** -0.5
        return scores.masked_fill(~sees, float("-inf")).softmax(-1)

    def forward(self, x, start, same, chunk, dtype):
        """x [B,T,d], start [B,T]; `same` and `chunk` are for the scan alone."""
        z, v, q, k, sees = self.inputs(x, start, dtype)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=sees)
        y = y.transpose(1, 2).reshape(*x.shape[:2], self.cfg.inner)
        y = rms_norm(y.float() * F.silu(z.float()), self.norm.weight, self.cfg.eps)
        return F.linear(y.to(dtype), self.out_proj.weight.to(dtype))
