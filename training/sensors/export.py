"""A model of train.py -> a checkpoint folder that `sarit convert` reads: config.json, model.safetensors, golden.safetensors.

    python export.py --model runs/seed0.pt --out ../../tests/golden-frames/motion

The inputs' standardization goes into the read-in, so the checkpoint takes frames as the watch gives them. The golden file
holds one series of the test part, `input` f32 [100,6], and `logits` f32 [100,4] after each frame, computed in float64.
"""
import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

import data
from model import EPS, EXPAND, KERNEL, Config
from reference import Stepper

GOLDEN = 23     # a walk of the test part


def config(cfg):
    return {
        "model_type": "mamba_frame_classifier", "input_size": cfg.inputs, "hidden_size": cfg.hidden,
        "state_size": cfg.states, "conv_kernel": KERNEL, "expand": EXPAND, "time_step_rank": cfg.rank,
        "num_hidden_layers": cfg.layers, "norm": "rms", "norm_eps": EPS, "residual": True, "pool": cfg.pool,
        "task": "classification", "num_labels": cfg.labels, "labels": data.LABELS, "columns": data.COLUMNS,
        "frame_interval_s": data.INTERVAL_S,
    }


def tensors(saved):
    """The checkpoint's tensors {name: float32 array}: linear_in(x) = W ((x - mean) / std) + b."""
    out = {k: v.double().numpy() for k, v in saved["model"].items()}
    mean, std = saved["mean"].double().numpy(), saved["std"].double().numpy()
    out["linear_in.weight"] = out["linear_in.weight"] / std
    out["linear_in.bias"] = out["linear_in.bias"] - out["linear_in.weight"] @ mean
    return {k: np.ascontiguousarray(v, np.float32) for k, v in out.items()}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    saved = torch.load(args.model, weights_only=True)
    settings, weights = config(Config(**saved["config"])), tensors(saved)
    (args.out / "config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    save_file(weights, args.out / "model.safetensors", metadata={"format": "pt"})
    series, stepper = data.load("test")[0][GOLDEN], Stepper(settings, weights)
    logits = np.array([stepper.step(frame) for frame in series], np.float32)
    save_file({"input": series, "logits": logits}, args.out / "golden.safetensors")
    print(args.out, sum(w.size for w in weights.values()), "parameters")


if __name__ == "__main__":
    main()
