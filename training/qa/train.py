"""Trains the model for a given time. A run may be cut into legs: --resume goes on from the last leg's state.

    python train.py --out run --seconds 500 --total 1200 --warm INDIC_QA_BASE
    python train.py --out run --seconds 500 --total 1200 --resume run/state.pt
    python train.py --out teacher --seconds 500 --total 500 --mixer attention         # for distill.py
    torchrun --nproc-per-node 4 train.py --out run --seconds 500 --total 500          # --batch and --workers are of each GPU
"""
import argparse
import json
import math
import time
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer

import checkpoint
import documents
import parallel
import warm
from batches import ROW, Batches, Recorded
from model import Config, LanguageModel
from optim import optimizers

HERE = Path(__file__).parent


def parser(description):
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True, help="folder for ckpt-*.safetensors, state.pt and train.log")
    p.add_argument("--seconds", type=float, required=True, help="training time of this leg, compilation not counted")
    p.add_argument("--tokenizer", default=str(HERE / "tokenizer.json"))
    p.add_argument("--layers", type=int, default=Config.layers)
    p.add_argument("--hidden", type=int, default=Config.hidden)
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--warmup", type=int, default=100, help="steps of a leg over which the rate rises")
    p.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    p.add_argument("--text-weight", type=float, default=0.3, help="weight of the text loss next to the answer loss")
    p.add_argument("--batch", type=int, default=64, help=f"rows of {ROW - 1} positions per step")
    p.add_argument("--workers", type=int, default=14)
    p.add_argument("--rows", help="file of batches.py to read in its order, instead of making batches")
    p.add_argument("--skip", type=int, default=0, help="with --rows: batches at its start that are left for measuring")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--mix", type=json.loads, default=documents.MIX, help="JSON: share of documents per source")
    p.add_argument("--mean", type=float, default=0.0, help="decay per step of a running mean of the weights, saved as mean-*")
    p.add_argument("--keep", type=float, default=60, help="seconds between two times that the run is saved on the way")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return p


def rate(args, step, seconds):
    """Warm-up over the first steps of a leg, then a cosine over the whole run down to 2 %."""
    part = min(1.0, seconds / args.total)
    return args.lr * min(1.0, (step + 1) / max(1, args.warmup)) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))


def start(args, model):
    """Loads what the run starts from; returns the saved state of a --resume."""
    if args.resume:
        state = torch.load(args.resume, map_location=args.device, weights_only=True)
        model.load_state_dict(state["model"])
        return state
    if args.weights:
        model.load_state_dict(checkpoint.load_parts(args.weights))
    elif args.warm:
        model.load_state_dict(warm.weights(model, args.warm, Tokenizer.from_file(args.tokenizer)))
    return {"seconds": args.done, "positions": 0, "step": 0}


def create(args, mixer):
    """The model to train, on its device, and the saved state that its run goes on from."""
    if args.rows and parallel.size() > 1:
        raise SystemExit("--rows: all processes would train on the same batches; leave it out, or take one process")
    args.device = parallel.join(args.device)
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    model = LanguageModel(Config(layers=args.layers, hidden=args.hidden, mixer=mixer))
    state = start(args, model)
    model.to(args.device)
    if args.device != "cpu":
        model.compile()
    return model, state


def save(out, model, optims, mean, counts):
    """What --resume goes on from, and the weights alone; `counts` are the seconds, positions and steps so far."""
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optims], **counts}
    checkpoint.write({out / "state.pt": partial(torch.save, state)})
    checkpoint.save_parts(model.state_dict(), out / "ckpt")
    if mean:
        names = [name for name, _ in model.named_parameters()]
        checkpoint.save_parts(dict(zip(names, mean)), out / "mean")


def run(args, model, state, loss_of, read=0):
    """Trains `model` for a leg: {seconds, positions, steps, waited: seconds without a batch to read}.

    `loss_of(ids, classes, dtype)` -> loss, {name in the log: value}; both [B,T+1]. `read`: batches of --rows already trained on.
    """
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if args.rows:
        batches = Recorded(args.rows, args.batch, args.skip, read)
    else:
        batches = Batches(args.tokenizer, args.seed + 1000 * parallel.rank(), args.batch, args.workers, args.mix)
    cuda = args.device != "cpu"
    optims = optimizers(model, args.lr, args.optimizer)
    for o, saved in zip(optims, state.get("optimizers", [])):
        o.load_state_dict(saved)

    mean = [p.detach().clone() for p in model.parameters()] if args.mean else None

    log = open(out / "train.log", "a", encoding="utf-8")

    def report(**fields):
        if parallel.rank() > 0:
            return
        line = json.dumps(fields)
        print(line, flush=True)
        log.write(line + "\n")
        log.flush()

    machine = torch.cuda.get_device_name() if cuda else "cpu"
    parameters = sum(p.numel() for p in model.parameters())
    report(event="start", machine=machine, torch=torch.__version__, parameters=parameters, **vars(args))
    before, positions, step = state["seconds"], state["positions"], state["step"]
    begun, clock, elapsed, kept = time.time(), None, 0.0, 0.0

    def keep():
        if parallel.rank() == 0 and step > state["step"]:
            save(out, model, optims, mean, dict(seconds=before + elapsed, positions=positions, step=step))

    try:
        for ids, classes in batches:
            ids = torch.from_numpy(ids.astype("int64")).to(args.device, non_blocking=True)
            classes = torch.from_numpy(classes).to(args.device, non_blocking=True)
            lr = rate(args, step - state["step"], before + elapsed)
            for o in optims:
                for group in o.param_groups:
                    group["lr"] = lr
            loss, measures = loss_of(ids, classes, torch.bfloat16 if cuda else torch.float32)
            loss.backward()
            parallel.average_gradients(model)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for o in optims:
                o.step()
            model.zero_grad(set_to_none=True)
            if mean:
                torch._foreach_lerp_(mean, list(model.parameters()), 1 - args.mean)
            step += 1
            positions += args.batch * (ROW - 1) * parallel.size()
            if clock is None:                      # the first step compiles: the clock starts after it
                loss.item()
                clock = mark_time = time.time()
                mark = positions
                report(event="compiled", seconds=round(clock - begun, 1))
            elapsed = parallel.clock(step, elapsed, clock)
            if step % 50 == 0:
                values = {name: round(float(v), 4) for name, v in {**measures, "gradient": norm}.items()}
                now = time.time()
                report(step=step, seconds=round(before + now - clock, 1), **values, rate=round(lr, 7), positions=positions,
                       positions_per_s=round((positions - mark) / (now - mark_time)), queued=batches.ready())
                mark, mark_time = positions, now
            if elapsed >= args.seconds:
                break
            if elapsed - kept >= args.keep:
                keep()
                kept = elapsed
    finally:
        batches.close()
        keep()
    totals = dict(seconds=round(before + elapsed, 1), positions=positions, steps=step, waited=round(batches.waited, 1))
    report(event="end", **totals)
    return totals


def arguments():
    p = parser(__doc__)
    p.add_argument("--total", type=float, required=True, help="training time of the whole run: the rate falls to its end")
    p.add_argument("--mixer", choices=("mamba2", "attention"), default="mamba2", help="attention: a teacher for distill.py")
    p.add_argument("--warm", help="Hugging Face folder of an earlier checkpoint to start from")
    p.add_argument("--weights", help="stem of checkpoint parts to start from, with a fresh optimizer")
    p.add_argument("--done", type=float, default=0.0, help="with --weights: seconds already trained")
    p.add_argument("--resume", help="state.pt to go on from")
    return p


def train(args):
    """The trained model and what `run` says of it."""
    model, state = create(args, args.mixer)

    def loss_of(ids, classes, dtype):
        loss, answer, text, right = model.loss(ids, classes, args.text_weight, dtype=dtype)
        return loss, {"answer_loss": answer, "text_loss": text, "answer_accuracy": right}

    return model, run(args, model, state, loss_of)


if __name__ == "__main__":
    train(arguments().parse_args())
