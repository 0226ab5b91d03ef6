"""Mamba-2 for training: the parameters of Hugging Face's `Mamba2ForCausalLM`, a chunked scan, rows of packed documents.

Shapes: B rows, T positions, H heads of P channels, N states per channel, D = H * P inner channels, d hidden.
State and convolution restart at every <bos>, so a row may hold several documents.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from attention import Attention
from norm import rms_norm, weight_holder

BOS, EOS = 1, 2
RESET = -40.0     # log decay of the state at a document's start: exp(-40) is 4e-18


@dataclass(frozen=True)
class Config:
    vocab: int = 16384
    hidden: int = 384
    layers: int = 14
    states: int = 128
    head: int = 64
    expand: int = 2
    kernel: int = 4
    eps: float = 1e-5
    mixer: str = "mamba2"       # or "attention", the teacher of distill.py

    @property
    def inner(self):
        return self.hidden * self.expand

    @property
    def heads(self):
        return self.inner // self.head

    @property
    def conv(self):
        return self.inner + 2 * self.states


def scan(x, dt, a, b, c, start, chunk, dtype):
    """Selective scan in chunks of `chunk` positions.

    x [B,T,H,P], dt [B,T,H] step sizes, a [H] negative rates, b and c [B,T,N], start [B,T] document starts.
    Returns [B,T,H,P] float32; matrix products run in `dtype`.
    """
    B, T, H, P = x.shape
    N, n = b.shape[-1], T // chunk
    decay = torch.where(start[..., None], RESET, dt * a).view(B, n, chunk, H).cumsum(2)
    u = (x.float() * dt[..., None]).view(B, n, chunk, H, P)
    b, c = b.view(B, n, chunk, N), c.view(B, n, chunk, N)

    # Within a chunk: every earlier position through the decay between the two.
    d = decay.transpose(2, 3)                                                     # [B,n,H,chunk]
    lower = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).tril()
    between = (d[..., :, None] - d[..., None, :]).masked_fill(~lower, float("-inf")).exp()
    mix = ((c @ b.transpose(-1, -2))[:, :, None].float() * between).to(dtype)     # [B,n,H,chunk,chunk]
    inside = (mix @ u.to(dtype).transpose(2, 3)).transpose(2, 3)                  # [B,n,chunk,H,P]

    # Across chunks: the state each chunk adds, carried on by the chunk's whole decay.
    to_end = (decay[:, :, -1:] - decay).exp()
    added = (u * to_end[..., None]).to(dtype).view(B, n, chunk, H * P).transpose(2, 3) @ b
    added = added.view(B, n, H, P, N)
    whole = decay[:, :, -1].exp()
    state, before = torch.zeros(B, H, P, N, device=x.device), []
    for i in range(n):
        before.append(state.to(dtype))
        state = state * whole[:, i, :, None, None] + added[:, i].float()
    before = torch.stack(before, 1).view(B, n, H * P, N)
    outside = (c @ before.transpose(-1, -2)).view(B, n, chunk, H, P)
    return (inside.float() + outside.float() * decay.exp()[..., None]).reshape(B, T, H, P)


class Mixer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.in_proj = nn.Linear(cfg.hidden, cfg.inner + cfg.conv + cfg.heads, bias=False)
        self.conv1d = nn.Conv1d(cfg.conv, cfg.conv, cfg.kernel, groups=cfg.conv, padding=cfg.kernel - 1)
        dt = torch.exp(torch.rand(cfg.heads) * math.log(100) + math.log(0.001)).clamp(min=1e-4)   # 0.001 .. 0.1
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.A_log = nn.Parameter(torch.log(torch.arange(1, cfg.heads + 1).float()))
        self.D = nn.Parameter(torch.ones(cfg.heads))
        self.norm = weight_holder(cfg.inner)
        self.out_proj = nn.Linear(cfg.inner, cfg.hidden, bias=False)
        nn.init.normal_(self.in_proj.weight, std=cfg.hidden ** -0.5)
        nn.init.normal_(self.out_proj.weight, std=(2 * cfg.hidden * cfg.layers) ** -0.5)
        nn.init.zeros_(self.conv1d.bias)

    def inputs(self, x, same, dtype):
        """Gate [B,T,D], and what the scan takes: u [B,T,H,P], b and c [B,T,N], dt [B,T,H].

        x [B,T,d]; `same` = 3 masks [B,T]: is the position 1, 2, 3 back of the same document?
        """
        cfg = self.cfg
        B, T, _ = x.shape
        gate, xbc, dt = F.linear(x.to(dtype), self.in_proj.weight.to(dtype)).split([cfg.inner, cfg.conv, cfg.heads], -1)
        w, wide = self.conv1d.weight[:, 0], xbc.float()
        mixed = wide * w[:, 3] + self.conv1d.bias
        for back in (1, 2, 3):
            shifted = F.pad(wide, (0, 0, back, 0))[:, :T]
            mixed = mixed + torch.where(same[back - 1][..., None], shifted, 0.0) * w[:, 3 - back]
        u, b, c = F.silu(mixed).to(dtype).split([cfg.inner, cfg.states, cfg.states], -1)
        return gate, u.reshape(B, T, cfg.heads, cfg.head), b, c, F.softplus(dt.float() + self.dt_bias)

    def matrix(self, x, start, same, dtype):
        """The scan as a matrix [B,H,T,T] over positions: y = matrix u. As large as it says: for short rows."""
        _, _, b, c, dt = self.inputs(x, same, dtype)
        decay = torch.where(start[..., None], RESET, dt * -torch.exp(self.A_log)).cumsum(1).transpose(1, 2)
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        between = (decay[..., :, None] - decay[..., None, :]).masked_fill(future, float("-inf")).exp()
        mix = (c @ b.transpose(-1, -2))[:, None].float() * between * dt.transpose(1, 2)[:, :, None]
        return mix + torch.diag_embed(self.D[:, None].expand(-1, x.shape[1]))

    def forward(self, x, start, same, chunk, dtype):
        """x [B,T,d], start [B,T] document starts, `same` as for `inputs`."""
        cfg = self.cfg
        gate, u, b, c, dt = self.inputs(x, same, dtype)
        y = scan(u, dt, -torch.exp(self.A_log), b, c, start, chunk, dtype) + u.float() * self.D[:, None]
        y = rms_norm(y.flatten(2) * F.silu(gate.float()), self.norm.weight, cfg.eps)
        return F.linear(y.to(dtype), self.out_proj.weight.to(dtype))


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.eps = cfg.eps
        self.norm = weight_holder(cfg.hidden)
        self.mixer = {"mamba2": Mixer, "attention": Attention}[cfg.mixer](cfg)

    def forward(self, x, start, same1, same2, same3, chunk: int, dtype: torch.dtype):
        return x + self.mixer(rms_norm(x, self.norm.weight, self.eps), start, (same1, same2, same3), chunk, dtype).float()


def head_loss(x, norm, embedding, target, weight, eps, dtype, text_weight):
    """Mean answer loss + text_weight * mean text loss; weight [B,T]: 0 nothing, 1 text, 2 answer."""
    logits = F.linear(rms_norm(x, norm, eps).to(dtype), embedding.to(dtype)).float()
    loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), target.reshape(-1), reduction="none").view(target.shape)
    answer, text = (weight == 2).float(), (weight == 1).float()
    answer_loss = (loss * answer).sum() / answer.sum().clamp(min=1)
    text_loss = (loss * text).sum() / text.sum().clamp(min=1)
    right = ((logits.argmax(-1) == target).float() * answer).sum() / answer.sum().clamp(min=1)
    return answer_loss + text_weight * text_loss, answer_loss.detach(), text_loss.detach(), right


class LanguageModel(nn.Module):
    def __init__(self, cfg=Config()):
        super().__init__()
        self.cfg = cfg
        self.backbone = nn.Module()
        self.backbone.embeddings = nn.Embedding(cfg.vocab, cfg.hidden)
        self.backbone.layers = nn.ModuleList(Block(cfg) for _ in range(cfg.layers))
        self.backbone.norm_f = weight_holder(cfg.hidden)
        nn.init.normal_(self.backbone.embeddings.weight, std=0.02)
        self.block, self.head, self.compiled = Block.forward, head_loss, False

    def compile(self):
        """For the GPU. Each new shape of the rows takes its time."""
        self.compiled = True
        self.block = torch.compile(Block.forward, dynamic=False)
        self.head = torch.compile(head_loss, dynamic=False)

    @staticmethod
    def documents(ids):
        """Document starts [B,T]; 3 masks [B,T]: is the position 1, 2, 3 back of the same document?"""
        start = ids == BOS
        document = start.int().cumsum(1)
        same = []
        for back in (1, 2, 3):
            mask = torch.zeros_like(start)
            mask[:, back:] = document[:, back:] == document[:, :-back]
            same.append(mask)
        return start, same

    def embed(self, ids):
        return F.embedding(ids, self.backbone.embeddings.weight).float()

    def hidden(self, ids, chunk=128, dtype=torch.float32):
        """ids [B,T] -> [B,T,d] before the last norm."""
        T = ids.shape[1]
        ids = F.pad(ids, (0, -T % chunk))
        start, same = self.documents(ids)
        x = self.embed(ids)
        for layer in self.backbone.layers:
            x = self.block(layer, x, start, *same, chunk, dtype)
        return x[:, :T]

    def logits(self, ids, chunk=128, dtype=torch.float32, at=...):
        """Logits at every position, [B,T,vocab], or at those that `at` picks: an index of the first two dimensions."""
        return self.head_logits(self.hidden(ids, chunk, dtype)[at], dtype)

    def head_logits(self, x, dtype):
        """x [...,d] before the last norm -> [...,vocab]"""
        x = rms_norm(x, self.backbone.norm_f.weight, self.cfg.eps)
        return F.linear(x.to(dtype), self.backbone.embeddings.weight.to(dtype)).float()

    def loss(self, ids, weight, text_weight, chunk=128, dtype=torch.bfloat16):
        """ids and weight [B,T+1]; T a multiple of `chunk`."""
        x = self.hidden(ids[:, :-1], chunk, dtype)
        return self.head(x, self.backbone.norm_f.weight, self.backbone.embeddings.weight, ids[:, 1:], weight[:, 1:],
                         self.cfg.eps, dtype, text_weight)


def slots(sizes, batch, length):
    """Groups of [(index, row, column)]: runs of `sizes` positions laid one after another into `batch` rows of `length`."""
    group, row, column = [], 0, 0
    for i, size in enumerate(sizes):
        if column + size > length:
            row, column = row + 1, 0
        if row == batch:
            yield group
            group, row = [], 0
        group.append((i, row, column))
        column += size
    if group:
        yield group


def laid(texts, group, batch, length, device):
    """ids [batch,length] with the token ids of `texts` in the slots of `group`, 0 elsewhere."""
    ids = torch.zeros(batch, length, dtype=torch.long)
    for i, row, column in group:
        ids[row, column:column + len(texts[i])] = torch.tensor(texts[i])
    return ids.to(device)


@torch.no_grad()
def greedy(model, prompts, max_new=40, batch=32, length=1024, dtype=torch.float32):
    """Greedy continuations (token ids, without <eos>) of prompts (token ids), which are packed into rows with room for
    their answers: every step reads [batch,length], or fewer rows where nothing is compiled."""
    device = model.backbone.embeddings.weight.device
    sizes = [len(p) + max_new for p in prompts]
    length = max([length, *sizes])
    outputs = [None] * len(prompts)
    for group in slots(sizes, batch, length):
        rows = batch if model.compiled else group[-1][1] + 1
        ids = laid(prompts, group, rows, length, device)
        row = torch.tensor([r for _, r, _ in group], device=device)
        begin = torch.tensor([c + len(prompts[i]) for i, _, c in group], device=device)
        done = torch.zeros(len(group), dtype=torch.bool, device=device)
        for end in (begin + n for n in range(max_new)):
            token = model.logits(ids, dtype=dtype, at=(row, end - 1)).argmax(-1)
            ids[row, end] = token.masked_fill(done, 0)
            done |= token == EOS
            if bool(done.all()):
                break
        ids = ids.cpu()
        for (i, r, _), b in zip(group, begin.tolist()):
            tokens = ids[r, b:b + max_new].tolist()
            outputs[i] = tokens[:tokens.index(EOS)] if EOS in tokens else tokens
    return outputs
