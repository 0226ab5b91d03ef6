"""Weights in bfloat16 as safetensors parts of at most 15 MiB each, and the full state for going on."""
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

PART = 15 * 2 ** 20


def save_parts(weights, stem):
    """Writes stem-0.safetensors, stem-1.safetensors, ..."""
    for old in Path(stem).parent.glob(Path(stem).name + "-[0-9].safetensors"):
        old.unlink()
    parts, size = [{}], 0
    for name, tensor in sorted(weights.items()):
        tensor = tensor.detach().to(torch.bfloat16).contiguous().cpu()
        if size + tensor.nbytes > PART:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    for i, part in enumerate(parts):
        save_file(part, f"{stem}-{i}.safetensors")


def load_parts(stem):
    """{name: float32 tensor}"""
    files = sorted(Path(stem).parent.glob(Path(stem).name + "-[0-9].safetensors"))
    assert files, stem
    return {name: tensor.float() for file in files for name, tensor in load_file(file).items()}
