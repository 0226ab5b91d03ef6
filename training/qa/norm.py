"""RMS norm, and the module that holds its weight."""
import torch
import torch.nn as nn


def rms_norm(x, weight, eps):
    x = x.float()
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def weight_holder(size):
    """A module with a `weight` of ones, named as Hugging Face names its norms."""
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(size))
    return module
