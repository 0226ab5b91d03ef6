"""Cross-validation of the shapes inside the training part, and the final model on all of it.

    python train.py cv    --out runs              five folds x seeds x shapes; prints and keeps runs/cv.json
    python train.py final --out runs --shape 16-mean   one model per seed; the test part is read here only, at the end
"""
import argparse
import json
import multiprocessing as mp
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import data
from augment import batch
from model import Config, FrameClassifier

SHAPES = {f"{hidden}-{pool}": Config(hidden=hidden, pool=pool) for hidden in (16, 32) for pool in ("mean", "last")}
STEPS, BATCH, RATE = 250, 8, 1e-2
EARLY = 20      # the loss that chooses a shape is the mean over the frames from this one on


def standardization(x):
    """Mean and standard deviation of each channel over all frames [n,T,F]."""
    return x.mean((0, 1)), x.std((0, 1))


def fit(cfg, x, y, seed):
    """A model for standardized frames [n,T,F] with labels [n]."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = FrameClassifier(cfg)
    matrices = [p for p in model.parameters() if p.ndim == 2 and p.shape[1] != cfg.states]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=0.1), dict(params=others, weight_decay=0.0)])
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
    for _ in range(STEPS):
        frames, interval, label, weight = (torch.from_numpy(a) for a in batch(rng, x, y, BATCH, cfg.pool == "last"))
        loss = F.cross_entropy(model(frames, interval).flatten(0, 1), label.flatten(), reduction="none")
        loss = (loss * weight.flatten()).sum() / weight.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
    return model


@torch.no_grad()
def measure(model, x, y):
    """{right after all frames, right after 10, 20, 50 frames, loss from frame EARLY on} of standardized series."""
    logits = model(torch.from_numpy(x), torch.ones(x.shape[:2]))
    right = (logits.argmax(-1) == torch.from_numpy(y)[:, None]).float()
    label = torch.from_numpy(y)[:, None].expand(-1, x.shape[1])
    loss = F.cross_entropy(logits.transpose(1, 2), label, reduction="none")[:, EARLY - 1:]
    return {"right": right[:, -1].sum().item(), **{f"right_{n}": right[:, n - 1].sum().item() for n in (10, 20, 50)},
            "loss": loss.mean().item()}


def cross_validate(job):
    """One fold: (shape, seed, fold) -> that and the measures of the series left out."""
    torch.set_num_threads(1)
    shape, seed, fold = job
    x, y = data.load("train")
    out = data.folds(y) == fold
    mean, std = standardization(x[~out])
    x = (x - mean) / std
    return dict(shape=shape, seed=seed, fold=fold, **measure(fit(SHAPES[shape], x[~out], y[~out], seed), x[out], y[out]))


def choose(rows):
    """{shape: measures over all folds and seeds} and the smallest shape within a standard error of the least loss."""
    table = {}
    for shape in SHAPES:
        mine = [r for r in rows if r["shape"] == shape]
        folds = [np.mean([r["loss"] for r in mine if r["fold"] == f]) for f in sorted({r["fold"] for r in mine})]
        seeds = len({r["seed"] for r in mine})
        table[shape] = {"loss": np.mean(folds), "error": np.std(folds, ddof=1) / len(folds) ** 0.5,
                        **{k: sum(r[k] for r in mine) / seeds for k in mine[0] if k.startswith("right")},
                        "parameters": sum(p.numel() for p in FrameClassifier(SHAPES[shape]).parameters())}
    best = min(table.values(), key=lambda t: t["loss"])
    near = [s for s, t in table.items() if t["loss"] <= best["loss"] + best["error"]]
    return table, min(near, key=lambda s: (table[s]["parameters"], table[s]["loss"]))


def final(job):
    """(shape, seed, folder): trains on the whole training part, saves the weights, then measures the test part."""
    torch.set_num_threads(1)
    shape, seed, out = job
    x, y = data.load("train")
    mean, std = standardization(x)
    model = fit(SHAPES[shape], (x - mean) / std, y, seed)
    torch.save({"config": asdict(SHAPES[shape]), "mean": torch.from_numpy(mean), "std": torch.from_numpy(std), "model": model.state_dict()},
               out / f"seed{seed}.pt")
    x, y = data.load("test")
    return dict(shape=shape, seed=seed, **measure(model, (x - mean) / std, y))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("cv", "final"))
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--shape", choices=SHAPES)
    p.add_argument("--seeds", type=int, default=3, help="seeds 0.. of initial weights and augmentation")
    p.add_argument("--workers", type=int, default=1)
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.what == "cv":
        run, jobs = cross_validate, [(s, seed, f) for seed in range(args.seeds) for s in SHAPES for f in range(5)]
    elif args.shape:
        run, jobs = final, [(args.shape, seed, args.out) for seed in range(args.seeds)]
    else:
        p.error("final needs --shape")
    rows = []
    with mp.Pool(args.workers) as pool:
        for row in pool.imap_unordered(run, jobs):
            rows.append(row)
            print(json.dumps(row), flush=True)
    (args.out / f"{args.what}.json").write_text(json.dumps(rows), encoding="utf-8")
    if args.what == "cv":
        table, chosen = choose(rows)
        for shape, t in table.items():
            print(f"{shape:10}", " ".join(f"{k} {v:.3f}" for k, v in t.items()))
        print("chosen:", chosen)


if __name__ == "__main__":
    main()
