"""The test part as CSV files for `sarit eval frames`: as it is, and sampled at other times.

    python resample.py --out test

test.csv, the data as it is; every2.csv, every second frame; drop30.csv, 30 % of the frames missing at random; jitter.csv,
read between the frames (linearly) at times off by up to half an interval. The last three have a column `time` in seconds.
"""
import argparse
from pathlib import Path

import numpy as np

import data


def every2(rng, x):
    return x[::2], np.arange(0, len(x), 2)


def drop30(rng, x):
    kept = np.flatnonzero(rng.random(len(x)) >= 0.3)
    return x[kept], kept


def jitter(rng, x):
    at = np.clip(np.arange(len(x)) + rng.uniform(-0.5, 0.5, len(x)), 0, len(x) - 1)
    return np.stack([np.interp(at, np.arange(len(x)), channel) for channel in x.T], 1), at


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    x, y = data.load("test")
    data.write_csv(args.out / "test.csv", x, y)
    for change in (every2, drop30, jitter):
        rng = np.random.default_rng(0)
        series, at = zip(*(change(rng, s) for s in x))
        data.write_csv(args.out / f"{change.__name__}.csv", series, y, [a * data.INTERVAL_S for a in at])


if __name__ == "__main__":
    main()
