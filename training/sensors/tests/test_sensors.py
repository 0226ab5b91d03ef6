"""Splits, augmentation, and the training forward against the float64 step."""
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import data
import export
import resample
import train
from augment import batch
from model import Config, FrameClassifier, Scan
from reference import Stepper

RNG = np.random.default_rng


def test_the_two_parts_share_no_run_of_a_second():
    runs = [{s[t:t + 10].tobytes() for s in data.load(part)[0] for t in range(91)} for part in ("train", "test")]
    assert all(len(r) > 3000 for r in runs) and not runs[0] & runs[1]


def test_each_part_has_ten_series_of_each_class():
    for part in ("train", "test"):
        assert np.bincount(data.load(part)[1]).tolist() == [10] * 4


def test_every_series_is_left_out_once_and_each_fold_has_all_classes():
    y = data.load("train")[1]
    fold = data.folds(y)
    assert set(fold) == set(range(5))
    assert all(np.bincount(y[fold == f]).tolist() == [2] * 4 for f in range(5))


def test_cross_validation_reads_the_training_part_only(monkeypatch):
    real = data.load
    monkeypatch.setattr(data, "load", lambda split: real(split) if split == "train" else pytest.fail("read the test part"))
    monkeypatch.setattr(train, "STEPS", 2)
    row = train.cross_validate(("16-mean", 0, 0))
    assert row["right"] <= 8 and np.isfinite(row["loss"])


def test_the_chosen_shape_is_the_smallest_near_the_best():
    loss = {shape: 1.0 for shape in train.SHAPES} | {"32-mean": 0.10, "16-last": 0.11, "16-mean": 0.2}
    rows = [dict(shape=s, seed=0, fold=f, loss=loss[s] + 0.02 * f, right=8.0) for s in loss for f in range(5)]
    assert train.choose(rows)[1] == "16-last"


@pytest.mark.parametrize("switches", [False, True])
def test_streams_keep_time_and_label(switches):
    y = np.arange(4)
    x = np.full((4, 100, 6), 1, np.float32) * 3.0 ** y[:, None, None]
    frames, interval, label, weight = batch(RNG(1), x, y, 64, switches)
    seen = weight > 0
    assert (np.round(np.log(frames[seen].mean(-1)) / np.log(3)) == label[seen]).mean() > 0.99
    assert (interval >= 1).all() and (interval == interval.round()).all()
    changes = ((np.diff(label) != 0) & seen[:, 1:]).any(1).sum()
    assert (changes > 20) if switches else changes == 0


def test_scan_is_the_recurrence_and_has_its_gradient():
    torch.manual_seed(0)
    decay = torch.rand(7, 2, 3, dtype=torch.double, requires_grad=True)
    added = torch.randn(7, 2, 3, dtype=torch.double, requires_grad=True)
    h = torch.zeros(2, 3, dtype=torch.double)
    for t, got in enumerate(Scan.apply(decay, added)):
        h = decay[t] * h + added[t]
        assert torch.allclose(got, h)
    assert torch.autograd.gradcheck(Scan.apply, (decay, added))


@pytest.mark.parametrize("cfg", [Config(), Config(hidden=32, layers=2, pool="last")])
def test_forward_and_export_are_the_reference_step(cfg):
    """Random weights, raw frames at odd intervals: the forward on standardized frames, the exported step on raw ones."""
    torch.manual_seed(3)
    model = FrameClassifier(cfg)
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    x = data.load("train")[0][[3, 27]]
    mean, std = train.standardization(x)
    interval = RNG(2).uniform(0.3, 3, x.shape[:2]).astype(np.float32)
    with torch.no_grad():
        ours = model(torch.from_numpy((x - mean) / std), torch.from_numpy(interval)).numpy()
    saved = {"mean": torch.from_numpy(mean), "std": torch.from_numpy(std), "model": model.state_dict()}
    for series, intervals, logits in zip(x, interval, ours):
        stepper = Stepper(export.config(cfg), export.tensors(saved))
        steps = np.array([stepper.step(frame, i) for frame, i in zip(series, intervals)])
        assert np.abs(steps - logits).max() < 1e-4 and np.ptp(steps, 0).min() > 0.01


def test_csv_gives_the_same_floats_back(tmp_path):
    x, y = data.load("test")
    data.write_csv(tmp_path / "t.csv", x[:3], y[:3])
    rows = [line.split(",") for line in (tmp_path / "t.csv").read_text().splitlines()]
    assert rows[0] == ["series", "label", *data.COLUMNS] and len(rows) == 301
    assert (np.array([r[2:] for r in rows[1:]], np.float32) == x[:3].reshape(-1, 6)).all()


def test_resampled_series_are_the_data_at_their_times():
    x = data.load("test")[0][30]
    for change in (resample.every2, resample.drop30, resample.jitter):
        frames, at = change(RNG(0), x)
        assert (np.diff(at) > 0).all()
        whole = at == at.round()
        assert (frames[whole] == x[at[whole].astype(int)]).all()
