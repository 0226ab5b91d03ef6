"""Weights in bfloat16 as safetensors parts of at most 15 MiB each, and the full state for going on."""
import os
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

PART = 15 * 2 ** 20


def write(files):
    """Makes every file of {path: what writes to a path} under another name first: until all are whole the old ones stay."""
    for path, writer in files.items():
        writer(f"{path}.tmp")
    for path in files:
        os.replace(f"{path}.tmp", path)


def parts_of(stem):
    return sorted(Path(stem).parent.glob(Path(stem).name + "-[0-9].safetensors"))


def save_parts(weights, stem):
    """Writes stem-0.safetensors, stem-1.safetensors, ..."""
    parts, size = [{}], 0
    for name, tensor in sorted(weights.items()):
        tensor = tensor.detach().to(torch.bfloat16).contiguous().cpu()
        if size + tensor.nbytes > PART:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    write({f"{stem}-{i}.safetensors": partial(save_file, part) for i, part in enumerate(parts)})
    for old in parts_of(stem)[len(parts):]:
        old.unlink()


def load_parts(stem):
    """{name: float32 tensor}"""
    files = parts_of(stem)
    assert files, stem
    return {name: tensor.float() for file in files for name, tensor in load_file(file).items()}
