#!/usr/bin/env python3
"""Decoding speed of PyTorch's transformers on a GPU, one token of one stream at a time, replayed as a CUDA graph.

    python cuda_peer.py CHECKPOINT [--steps N] [--dtype bfloat16|float32]

Prints one JSON object: tokens a second, median of five runs, greedy choice of the next token included.
"""
import argparse
import json
from statistics import median
from time import perf_counter

import torch
import transformers

WARM_UP = 3
RUNS = 5


def captured_step(model, cache, token):
    """A graph of one step: reads `token`, and writes the token that it chooses there."""

    def step():
        logits = model(input_ids=token, cache_params=cache, use_cache=True,
                       cache_position=torch.ones(1, dtype=torch.long, device="cuda")).logits
        token.copy_(logits[:, -1].argmax(-1, keepdim=True))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--steps", type=int, default=1024)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    with torch.inference_mode():
        model = transformers.AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=dtype).cuda().eval()
        token = torch.ones(1, 1, dtype=torch.long, device="cuda")
        cache = model(input_ids=token, use_cache=True).cache_params
        graph = captured_step(model, cache, token)
        speeds = []
        for _ in range(RUNS):
            torch.cuda.synchronize()
            start = perf_counter()
            for _ in range(args.steps):
                graph.replay()
            torch.cuda.synchronize()
            speeds.append(args.steps / (perf_counter() - start))
    print(json.dumps({
        "peer": f"transformers {transformers.__version__}, torch {torch.__version__}, CUDA graph",
        "checkpoint": args.checkpoint,
        "dtype": args.dtype,
        "device": torch.cuda.get_device_name(),
        "decode_tokens_per_s": median(speeds),
        "range": [min(speeds), max(speeds)],
    }))


if __name__ == "__main__":
    main()
