"""One process a GPU, as `torchrun` starts them; with a process alone nothing here does anything."""
import os
import time

import torch
import torch.distributed as dist

CLOCK_STEPS = 10    # steps between two looks at the clock, on which all processes must agree


def size():
    return int(os.environ.get("WORLD_SIZE", 1))


def rank():
    return int(os.environ.get("RANK", 0))


def join(device):
    """Joins the other processes, if there are any; this one's device of those that `device` ("cuda", "cpu") names."""
    if size() == 1:
        return device
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    if device == "cpu":
        return device
    local = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def average_gradients(model):
    """The mean of all processes' gradients, in each."""
    if size() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    parts = flat.div_(size()).split([g.numel() for g in gradients])
    torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients)])


def clock(step, before, start):
    """Seconds since `start`: with several processes the first one's, looked up every few steps and `before` between them."""
    if size() == 1:
        return time.time() - start
    if step % CLOCK_STEPS:
        return before
    seconds = torch.tensor([time.time() - start], device="cuda" if dist.get_backend() == "nccl" else "cpu", dtype=torch.float64)
    dist.broadcast(seconds, 0)
    return float(seconds)
