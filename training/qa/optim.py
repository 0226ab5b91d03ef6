"""Muon for the projection matrices, AdamW for the rest."""
import torch


def orthogonal(m, steps=5):
    """Newton-Schulz iteration: [n,rows,cols] float -> about the nearest (semi-)orthogonal matrices, bfloat16."""
    x = m.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.transpose(-1, -2) if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        g = x @ x.transpose(-1, -2)
        x = 3.4445 * x + (-4.7750 * g + 2.0315 * (g @ g)) @ x
    return x.transpose(-1, -2) if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, then an orthogonal update whose root mean square is that of an AdamW step (0.2 times the rate)."""

    def __init__(self, groups, lr, momentum=0.95, weight_decay=0.1):
        super().__init__(groups, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            grads = torch.stack([p.grad for p in group["params"]])      # one shape per group
            state = self.state[group["params"][0]]
            if "velocity" not in state:
                state["velocity"] = torch.zeros_like(grads)
            velocity = state["velocity"]
            velocity.lerp_(grads, 1 - group["momentum"])
            update = orthogonal(grads.lerp(velocity, group["momentum"])).float()
            scale = 0.2 * max(update.shape[-2:]) ** 0.5
            for p, u in zip(group["params"], update):
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u, alpha=-group["lr"] * scale)


def optimizers(model, lr, kind):
    """The optimizers of the parameters that are trained; `kind` is "muon" or "adamw"."""
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    ins = [p for n, p in named.items() if n.endswith("in_proj.weight")]
    outs = [p for n, p in named.items() if n.endswith("out_proj.weight")]
    matrices = {id(p) for p in ins + outs} if kind == "muon" else set()
    rest = [(n, p) for n, p in named.items() if id(p) not in matrices]
    decayed = [p for n, p in rest if p.ndim == 2]
    others = [p for n, p in rest if p.ndim != 2]
    groups = [dict(params=decayed, weight_decay=0.1), dict(params=others, weight_decay=0.0)]
    adam = torch.optim.AdamW([g for g in groups if g["params"]],
                             lr=lr, betas=(0.9, 0.95), eps=1e-8, fused=next(model.parameters()).is_cuda)
    return [adam] + ([Muon([dict(params=m) for m in (ins, outs) if m], lr=lr)] if matrices else [])
