"""Training streams from the series: crops, other activities that follow, missing frames, noise, scaling.

A stream is at most `data.FRAMES` frames with the time since the frame before (1 = 0.1 s) and, per frame, its label and how
many frames of that activity were seen.
"""
import numpy as np

from data import FRAMES

RAMP = 30       # frames after which a frame's loss counts in full


def crop(rng, x, most):
    """A random part of a series [100,6], at least 20 and at most `most` frames."""
    length = rng.integers(20, most + 1)
    start = rng.integers(0, len(x) - length + 1)
    return x[start:start + length]


def thin(rng, x):
    """The frames kept of a part: all, every second, or a random part of them; and the interval before each."""
    kind = rng.random()
    if kind < 0.5:
        kept = np.arange(len(x))
    elif kind < 0.7:
        kept = np.arange(rng.integers(2), len(x), 2)
    else:
        kept = np.flatnonzero(rng.random(len(x)) < rng.uniform(0.4, 1.0))
    return x[kept], np.diff(kept, prepend=kept[:1] - 1)


def distort(rng, x):
    """Another watch: each channel scaled by about 10 %, and noise of 5 % of a (standardized) channel."""
    scale = np.exp(rng.normal(0, 0.07) + rng.normal(0, 0.07, x.shape[-1]))
    return x * scale + rng.normal(0, 0.05, x.shape)


def stream(rng, x, y, switches):
    """Frames [FRAMES,6], intervals [FRAMES], labels [FRAMES] and loss weights [FRAMES]; zero weight after its end."""
    frames, interval = np.zeros((FRAMES, x.shape[-1]), np.float32), np.ones(FRAMES, np.float32)
    label, weight = np.zeros(FRAMES, np.int64), np.zeros(FRAMES, np.float32)
    at = 0
    for _ in range(1 + (switches and rng.integers(3))):
        row = rng.integers(len(x))
        part, gaps = thin(rng, crop(rng, distort(rng, x[row]), FRAMES))
        part, gaps = part[:FRAMES - at], gaps[:FRAMES - at]
        to = slice(at, at + len(part))
        frames[to], interval[to], label[to] = part, gaps, y[row]
        weight[to] = np.minimum(1, np.arange(1, len(part) + 1) / RAMP)
        at += len(part)
    return frames, interval, label, weight


def batch(rng, x, y, size, switches):
    """`size` streams, each array stacked. `switches`: up to three activities follow one another in a stream."""
    return [np.stack(a) for a in zip(*(stream(rng, x, y, switches) for _ in range(size)))]
