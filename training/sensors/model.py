"""The frame classifier: read-in, Mamba-1 layers, pooling over the frames so far, classes after every frame.

Shapes: B series, T frames, F numbers of a frame, d hidden, D = 2 d inner channels, N states per channel, R rank of dt.
    r = linear_in(frame);  r += mamba(rms(r)) per layer;  logits = classifier(pool(rms(r)))
The names of the parameters are those of the checkpoint format `mamba_frame_classifier`.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

KERNEL, EXPAND, EPS = 4, 2, 1e-5


@dataclass(frozen=True)
class Config:
    hidden: int = 16
    layers: int = 1
    states: int = 8
    pool: str = "mean"      # or "last"
    inputs: int = 6
    labels: int = 4

    @property
    def inner(self):
        return self.hidden * EXPAND

    @property
    def rank(self):
        return math.ceil(self.hidden / 16)


class Scan(torch.autograd.Function):
    """h[t] = decay[t] * h[t-1] + added[t] over the first dimension, from zero."""

    @staticmethod
    def forward(ctx, decay, added):
        h = torch.empty_like(added)
        h[0] = added[0]
        for t in range(1, len(h)):
            torch.addcmul(added[t], decay[t], h[t - 1], out=h[t])
        ctx.save_for_backward(decay, h)
        return h

    @staticmethod
    def backward(ctx, grad):
        decay, h = ctx.saved_tensors
        grad = grad.clone()
        for t in range(len(h) - 1, 0, -1):
            grad[t - 1].addcmul_(decay[t], grad[t])
        grad_decay = torch.zeros_like(decay)
        torch.mul(grad[1:], h[:-1], out=grad_decay[1:])
        return grad_decay, grad


class RmsNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


class Mamba(nn.Module):
    """Mamba-1 (Gu and Dao 2023); in_proj's rows are [x | z]."""

    def __init__(self, cfg):
        super().__init__()
        self.split = [cfg.rank, cfg.states, cfg.states]
        self.in_proj = nn.Linear(cfg.hidden, 2 * cfg.inner, bias=False)
        self.conv1d = nn.Conv1d(cfg.inner, cfg.inner, KERNEL, groups=cfg.inner)
        self.x_proj = nn.Linear(cfg.inner, sum(self.split), bias=False)
        self.dt_proj = nn.Linear(cfg.rank, cfg.inner)
        self.A_log = nn.Parameter(torch.arange(1, cfg.states + 1).float().log().repeat(cfg.inner, 1))
        self.D = nn.Parameter(torch.ones(cfg.inner))
        self.out_proj = nn.Linear(cfg.inner, cfg.hidden, bias=False)
        dt = torch.exp(torch.rand(cfg.inner) * math.log(100) + math.log(0.001))       # 0.001 .. 0.1
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, u, interval):
        """u [T,B,d]; interval [T,B]: time since the frame before, 1 as trained."""
        x, z = self.in_proj(u).chunk(2, -1)
        x = F.pad(x.permute(1, 2, 0), (KERNEL - 1, 0))
        x = F.silu(self.conv1d(x)).permute(2, 0, 1)                                   # [T,B,D]
        dt, b, c = self.x_proj(x).split(self.split, -1)
        dt = F.softplus(self.dt_proj(dt)) * interval[..., None]
        decay = torch.exp(dt[..., None] * -torch.exp(self.A_log))                     # [T,B,D,N]
        h = Scan.apply(decay, (dt * x)[..., None] * b[:, :, None])
        y = (h @ c[..., None])[..., 0] + self.D * x
        return self.out_proj(y * F.silu(z))


class Layer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.norm = RmsNorm(cfg.hidden)
        self.mamba = Mamba(cfg)


class FrameClassifier(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.linear_in = nn.Linear(cfg.inputs, cfg.hidden)
        self.layers = nn.ModuleList(Layer(cfg) for _ in range(cfg.layers))
        self.norm = RmsNorm(cfg.hidden)
        self.classifier = nn.Linear(cfg.hidden, cfg.labels)

    def forward(self, frames, interval):
        """frames [B,T,F], interval [B,T] -> logits [B,T,labels] after each frame."""
        r, interval = self.linear_in(frames.transpose(0, 1)), interval.transpose(0, 1)
        for layer in self.layers:
            r = r + layer.mamba(layer.norm(r), interval)
        u = self.norm(r)
        if self.cfg.pool == "mean":
            u = u.cumsum(0) / torch.arange(1, len(u) + 1)[:, None, None]
        return self.classifier(u).transpose(0, 1)
