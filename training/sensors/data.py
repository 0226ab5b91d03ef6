"""BasicMotions (UEA archive), as the PyPI package `aeon` ships it: 40 series to train on and 40 to test on.

A series is 10 seconds of a smart watch on the wrist at 10 Hz: 100 frames of acceleration and rotation rate.
"""
from importlib.util import find_spec
from pathlib import Path

import numpy as np

LABELS = ["Standing", "Running", "Walking", "Badminton"]                       # the order of the file's @classLabel
COLUMNS = ["acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"]
FRAMES, INTERVAL_S = 100, 0.1


def load(split):
    """Frames float32 [40,100,6] and labels int64 [40] of "train" or "test", in the order of the file."""
    package = find_spec("aeon")
    if package is None:
        raise SystemExit("the data comes with the package aeon: pip install --no-deps aeon==1.6.0")
    file = Path(package.submodule_search_locations[0]) / f"datasets/data/BasicMotions/BasicMotions_{split.upper()}.ts"
    series, labels = [], []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#@":
            *channels, label = line.split(":")
            series.append([[float(v) for v in c.split(",")] for c in channels])
            labels.append(LABELS.index(label))
    x = np.ascontiguousarray(np.array(series, np.float32).transpose(0, 2, 1))
    assert x.shape == (40, FRAMES, len(COLUMNS))
    return x, np.array(labels)


def folds(labels, count=5):
    """Fold of each series, 0..count. Neighbours of a class in the file share a fold: they may be one person's."""
    fold = np.empty(len(labels), int)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        fold[rows] = np.arange(len(rows)) * count // len(rows)
    return fold


def write_csv(path, series, labels, times=None):
    """Rows of series number, label, seconds (with `times`) and frame; `series`: arrays [T,6], `times`: arrays [T]."""
    with open(path, "w", encoding="utf-8") as f:
        print("series", "label", *(["time"] if times else []), *COLUMNS, sep=",", file=f)
        for i, (x, label) in enumerate(zip(series, labels)):
            for t, frame in enumerate(x):
                time = [number(times[i][t])] if times else []
                print(i, LABELS[label], *time, *map(number, frame), sep=",", file=f)


def number(value):
    """Six decimals, as the data has them: read back they give the same float32."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
