#!/usr/bin/env python3
"""PREDICTED decoding speed on a Jetson Orin (sm_87), from the bytes that a token needs: weights once, the state, and what
of it is written. Nothing here was measured on one.

    python jetson.py          prints the table of bench/jetson.md
"""
from math import ceil

# (layers, d_model, d_inner, vocabulary, rows of in_proj, state elements, conv channels, selection rows or 0, dt_rank)
SHAPES = {
    "mamba-130m": (24, 768, 1536, 50280, 3072, 1536 * 16, 1536, 48 + 32, 48),
    "mamba2-130m": (24, 768, 1536, 50288, 3352, 24 * 64 * 128, 1536 + 256, 0, 0),
    "mamba2-370m": (48, 1024, 2048, 50288, 4384, 32 * 64 * 128, 2048 + 256, 0, 0),
    "mamba2-1.3b": (48, 2048, 4096, 50288, 8512, 64 * 64 * 128, 4096 + 256, 0, 0),
    "mamba2-2.7b": (64, 2560, 5120, 50288, 10576, 80 * 64 * 128, 5120 + 256, 0, 0),
}
BANDWIDTHS = {"Orin Nano, 68 GB/s": 68e9, "Orin NX, 102 GB/s": 102e9}
# What the issue asks of the larger models: this part of the bandwidth.
FRACTION = 0.6


def matrix_bytes(dtype, rows, cols):
    """As `DType::bytes` has it."""
    tiles = ceil(rows / 16) * ceil(cols / 32)
    return ceil(tiles * 32 / 64) * 64 + tiles * {"q8": 512, "q4": 256}[dtype]


def bytes_per_token(shape, dtype):
    layers, d, inner, vocab, in_rows, state, channels, selection, rank = shape
    layer = matrix_bytes(dtype, in_rows, d) + matrix_bytes(dtype, d, inner)
    # Convolution with bias, norms, D, and decays.
    layer += 4 * (5 * channels + d + 2 * inner + (state if selection else 2 * in_rows // 64))
    if selection:
        layer += matrix_bytes("q8", selection, inner) + matrix_bytes("q8", inner, rank)
    windows = 2 * 3 * channels
    if selection:
        states = windows + 2 * state
    else:
        # A state of Mamba-2 is written with one token of 16; of the tokens held until then 7.5 are read and one is written.
        held = inner + (channels - inner) // 2 + in_rows - inner - channels
        states = windows + state + state // 16 + 8.5 * held
    states *= layers * 4
    return layers * layer + matrix_bytes(dtype, vocab, d) + states, states


def main():
    print("| model | weights | bytes a token | of which state |", end="")
    print("".join(f" {name}: at most | at {FRACTION:.0%} |" for name in BANDWIDTHS))
    print("|---|---|---|---|" + "---|---|" * len(BANDWIDTHS))
    for name, shape in SHAPES.items():
        for dtype in ["q8", "q4"]:
            total, states = bytes_per_token(shape, dtype)
            speeds = "".join(f" {b / total:,.0f} | {FRACTION * b / total:,.0f} |" for b in BANDWIDTHS.values())
            print(f"| {name} | {dtype} | {total / 1e6:,.1f} MB | {states / 1e6:,.1f} MB |{speeds}")


if __name__ == "__main__":
    main()
