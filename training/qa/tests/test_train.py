"""A leg that is stopped in any way leaves what the next one goes on from."""
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import arm
import checkpoint
import train
from batches import ROW, record
from model import Config, LanguageModel

TINY = Config(vocab=48, hidden=32, layers=1, states=16, head=16)


@pytest.fixture
def arguments(tmp_path):
    """Makes the parsed arguments of a leg of one second or so on recorded rows, with `more` of them."""
    record(tmp_path / "rows", 2, [(np.full((1, ROW), 7, np.uint16), np.full((1, ROW), 2, np.uint8))] * 2)

    def made(*more):
        return train.arguments().parse_args(["--out", str(tmp_path / "run"), "--seconds", "0.01", "--total", "1", "--batch", "1",
                                             "--rows", str(tmp_path / "rows"), "--device", "cpu", *more])
    return made


def leg(args, model, state, at_step=lambda step: None):
    """`train.run`, with `at_step` called before each step."""
    steps = iter(range(10 ** 6))

    def loss_of(ids, classes, dtype):
        at_step(next(steps))
        return model.loss(ids, classes, 0.3, dtype=dtype)[0], {}

    return train.run(args, model, state, loss_of)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_is_stopped_can_be_resumed(arguments, stop):
    def at_step(step):
        if step == 2:
            raise stop

    model, args = LanguageModel(TINY), arguments("--seconds", "1000")
    with pytest.raises(stop):
        leg(args, model, train.start(args, model), at_step)
    again, args = LanguageModel(TINY), arguments("--resume", f"{args.out}/state.pt")
    state = train.start(args, again)
    assert state["step"] == 2 and all((a == b).all() for a, b in zip(model.parameters(), again.parameters()))
    assert leg(args, again, state)["steps"] > 2


def test_a_run_is_saved_on_the_way(arguments):
    def at_step(step):
        if step == 2:
            assert torch.load(f"{args.out}/state.pt", weights_only=True)["step"] == 2
            assert checkpoint.load_parts(f"{args.out}/ckpt")
            raise KeyboardInterrupt

    model, args = LanguageModel(TINY), arguments("--seconds", "1000", "--keep", "0")
    with pytest.raises(KeyboardInterrupt):
        leg(args, model, train.start(args, model), at_step)


def test_recorded_rows_are_for_one_process(arguments, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="--rows"):
        train.create(arguments(), "mamba2")


def test_parts_that_cannot_be_written_leave_the_old_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "PART", 16)
    weights = {name: torch.full((8,), value) for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    checkpoint.save_parts(weights, tmp_path / "ckpt")
    checkpoint.save_parts({name: weights[name] for name in "ab"}, tmp_path / "ckpt")
    assert sorted(checkpoint.load_parts(tmp_path / "ckpt")) == ["a", "b"]

    def full(part, path):
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError):
        checkpoint.save_parts(weights, tmp_path / "ckpt")
    assert sorted(checkpoint.load_parts(tmp_path / "ckpt")) == ["a", "b"]


def test_an_arm_without_rows_to_measure_is_refused_before_it_trains(monkeypatch, capsys):
    for more in ([], ["--rows", "rows"], ["--skip", "4"]):
        monkeypatch.setattr(sys, "argv", ["arm.py", "train", "--out", "run", "--seconds", "1", "--total", "1", *more])
        with pytest.raises(SystemExit):
            arm.main()
        assert "--skip" in capsys.readouterr().err.split("error:")[1]
