"""Weighted mean of two checkpoints of one run.

    python average.py --first leg2/ckpt --second leg3/ckpt --share 0.75 --out final/ckpt
"""
import argparse
from pathlib import Path

import checkpoint
from model import Config, LanguageModel


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--first", required=True, help="stem of checkpoint parts")
    p.add_argument("--second", required=True)
    p.add_argument("--share", type=float, required=True, help="weight of the second, 0 to 1")
    p.add_argument("--layers", type=int, default=Config.layers)
    p.add_argument("--hidden", type=int, default=Config.hidden)
    p.add_argument("--out", required=True, help="stem of the parts to write")
    args = p.parse_args()
    first, second = checkpoint.load_parts(args.first), checkpoint.load_parts(args.second)
    model = LanguageModel(Config(layers=args.layers, hidden=args.hidden))
    model.load_state_dict({name: (1 - args.share) * first[name] + args.share * second[name] for name in first})
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_parts(model.state_dict(), args.out)


if __name__ == "__main__":
    main()
