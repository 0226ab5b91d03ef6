"""The bench without peers and without a clock: checkpoints, GGUF files, ratios, the page. Run: python -m pytest bench/tests"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import checkpoints
import compare
import report
import sides

TINY = {
    "mamba": dict(checkpoints.SHAPES["mamba-130m"], vocab_size=48, hidden_size=32, num_hidden_layers=2,
                  time_step_rank=2),
    "mamba2": dict(checkpoints.SHAPES["mamba2-130m"], vocab_size=48, hidden_size=32, num_hidden_layers=2,
                   state_size=16, head_dim=16, num_heads=4),
}


@pytest.mark.parametrize("shape", [*TINY.values(), checkpoints.SHAPES["mamba2-8m"]])
def test_parameters_counts_what_a_checkpoint_holds(shape):
    assert checkpoints.parameters(shape) == sum(tensor.size for tensor in checkpoints.tensors(shape).values())


def test_sizes_are_those_of_the_names():
    sizes = {name: round(checkpoints.parameters(shape) / 1e6, 1) for name, shape in checkpoints.SHAPES.items()}
    assert sizes == {"mamba-130m": 129.1, "mamba2-8m": 7.9, "mamba2-130m": 129.0, "mamba2-370m": 368.3,
                     "mamba2-2.7b": 2702.6}


@pytest.mark.parametrize("kind", TINY)
def test_a_checkpoint_is_the_same_each_time_and_has_no_odd_numbers(kind):
    one, two = checkpoints.tensors(TINY[kind]), checkpoints.tensors(TINY[kind])
    for name, tensor in one.items():
        assert tensor.dtype == np.float16 and np.isfinite(tensor).all(), name
        assert (tensor == two[name]).all(), name


@pytest.mark.parametrize("kind", TINY)
def test_gguf_holds_every_tensor_as_llama_cpp_wants_it(kind, tmp_path):
    gguf = pytest.importorskip("gguf")
    import gguf_files

    shape = TINY[kind]
    checkpoints.write(shape, tmp_path / "hf")
    gguf_files.write(tmp_path / "hf", tmp_path / "tiny.f16.gguf", "f16")
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "tiny.f16.gguf").tensors}
    source = checkpoints.tensors(shape)
    assert len(found) == len(source)
    embedding = found["token_embd.weight"]
    assert (embedding.data == source["backbone.embeddings.weight"]).all()
    assert found["blk.1.ssm_conv1d.weight"].data.dtype == np.float32
    assert found["blk.1.ssm_in.weight"].data.dtype == np.float16
    decay = -np.exp(source["backbone.layers.1.mixer.A_log"].astype(np.float32))
    assert (found["blk.1.ssm_a"].data.ravel() == decay.ravel()).all()
    assert list(found["blk.1.ssm_d"].shape) == ([64] if kind == "mamba" else [1, 4])


def test_a_command_that_fails_is_missing_with_its_last_line():
    with pytest.raises(sides.Missing, match="no such thing"):
        sides.run([sys.executable, "-c", "import sys; sys.exit('warning\\nno such thing')"])
    with pytest.raises(sides.Missing, match="No such file"):
        sides.run(["/no/such/program"])


def test_sides_take_what_they_can():
    candle, mamba_rs = (sides.Crate(name, "peers", Path()) for name in ("candle", "mamba-rs"))
    case = sides.Case
    assert candle.takes(case("mamba2-130m", "f16", 2)) and not candle.takes(case("mamba2-130m", "q4", 2))
    assert mamba_rs.takes(case("mamba-130m", "f32", 1))
    for other in (case("mamba-130m", "f32", 2), case("mamba-130m", "f16", 1), case("mamba2-130m", "f32", 1)):
        assert not mamba_rs.takes(other)


def test_a_model_outside_the_suite_is_measured_only_when_named():
    chosen = lambda **more: compare.suite(argparse.Namespace(**{"only": None, "quick": False, **more}))
    assert chosen() == compare.SUITE
    assert chosen(quick=True) == [("mamba2-8m", "q4"), ("mamba2-8m", "q8")]
    assert chosen(only=["mamba2-2.7b", "mamba2-370m"]) == [("mamba2-370m", "q4"), ("mamba2-2.7b", "q4")]


class Failing:
    """A side whose decoding stops after so many measurements."""

    def __init__(self, name, left):
        self.name, self.left = name, left

    def takes(self, case):
        return True

    def measure(self, case):
        self.left -= 1
        if self.left < 0:
            raise sides.Missing("out of memory")
        return {"decode_tokens_per_s": 500}


def test_a_peer_that_fails_takes_nothing_from_sarit():
    there, case, missing = [Failing("Sarit", 99), Failing("llama.cpp", 1)], sides.Case("mamba2-8m", "q4", 2), {}
    part = compare.positions(there, case, [1, 1024, 4096], missing)
    assert part["rows"] == [{"position": 1, "Sarit": 2, "llama.cpp": 2}, {"position": 1024, "Sarit": 2}, {"position": 4096, "Sarit": 2}]
    assert missing == {"llama.cpp, position 1024": "out of memory"}
    row = compare.speed(case, [Failing("Sarit", 99), Failing("candle", 1)], 2, missing)
    assert list(row["runs"]) == ["Sarit"] and len(row["runs"]["Sarit"]) == 2 and "candle, mamba2-8m q4" in missing


def run_of(prefill, decode):
    return {"prefill_tokens_per_s": prefill, "decode_tokens_per_s": decode, "bytes_per_token": 2e6,
            "read_bandwidth_bytes_per_s": 1e9, "decode_bandwidth_fraction": 0.5}


RESULTS = {
    "date": "2026-01-02", "command": "python bench/compare.py", "minutes": 3.2, "runs": 3, "prompt": 512,
    "machine": {"cpu": "A CPU", "cores": 2, "cache": "32M", "system": "Linux", "stolen": 0.01},
    "versions": {"Sarit": "Sarit abc"},
    "speed": [
        {"model": "mamba-130m", "weights": "q4", "threads": 2, "parameters": 129e6, "runs": {
            "Sarit": [run_of(400, 200), run_of(100, 50), run_of(300, 90)],
            "llama.cpp": [run_of(100, 100), run_of(50, 25), run_of(100, 30)]}},
        {"model": "mamba-130m", "weights": "f32", "threads": 1, "parameters": 129e6, "runs": {
            "Sarit": [run_of(400, 200)], "mamba-rs": [{"decode_tokens_per_s": 50}]}},
    ],
    "positions": {"model": "m", "weights": "q4", "threads": 2,
                  "rows": [{"position": 1, "Sarit": 1.5, "llama.cpp": 2.5}, {"position": 1024, "Sarit": 1.5}]},
    "streams": {"model": "m", "weights": "q4", "threads": 2, "rows": [
        {"streams": 1, "decode_tokens_per_s": [100, 110]}, {"streams": 8, "decode_tokens_per_s": [400, 418]}]},
    "instructions": {"bundled": 1234567.0},
    "arm": [{"cpu": "max", "backend": "i8mm", "decode": 1.5e7, "prompt": 5e6},
            {"cpu": "max", "backend": "scalar", "decode": 6e7, "prompt": 6e7}],
    "missing": {"candle": "not built"},
}


class Decoder:
    """Sarit as a stand-in: a token takes as long for all streams as for one."""
    binary = "sarit"

    def measure(self, case, *extra):
        count = extra[extra.index("--streams") + 1]
        many = {"many_streams": {"streams": count, "tokens_per_s": 100 * count}} if count > 1 else {}
        return {"decode_tokens_per_s": 100, **many}


def test_streams_are_counted_together(monkeypatch):
    monkeypatch.setattr(compare, "run", lambda command: "--streams N")
    part = compare.streams(Decoder(), sides.Case("m", "q4", 2), 2)
    assert part["rows"] == [{"streams": n, "decode_tokens_per_s": [100 * n] * 2} for n in compare.STREAMS]


def test_a_ratio_is_the_median_of_neighbours_not_of_medians():
    row = RESULTS["speed"][0]
    assert report.ratio(row, "Sarit", "llama.cpp", "decode_tokens_per_s") == 2
    assert report.ratio(row, "Sarit", "llama.cpp", "prefill_tokens_per_s") == 3
    assert report.ratio(row, "Sarit", "candle", "decode_tokens_per_s") is None


def test_the_page_says_targets_missed_and_met_and_peers_missing():
    page = report.markdown(RESULTS, "plot.svg")
    assert "| 2.00 (≥ 2.3: no) |" in page and "| 3.00 (≥ 4: no) |" in page
    assert "| mamba-130m | f32 | 1 | mamba-rs | 200 (200–200) | 50.0 (50.0–50.0) | 4.00 (≥ 3: yes) |" in page
    assert "| 1,024 | 1.500 | - |" in page
    assert "| 8 | 409 (400–418) | 3.90 (≥ 4: no) |" in page
    assert "| bundled | 1.235 million |" in page
    assert "| max | i8mm | 15.00 million (4.00 times fewer) | 5.00 million (12.00 times fewer) |" in page
    assert "| max | scalar | 60.00 million | 60.00 million |" in page
    assert "- candle: not built" in page


def test_the_picture_is_drawn_even_of_little(tmp_path):
    pytest.importorskip("matplotlib")
    import plot

    row = dict(RESULTS["speed"][0], model="mamba2-130m")
    for results in (RESULTS, {"speed": [row]}):
        plot.draw(results, tmp_path / "plot.svg")
        assert "<svg" in (tmp_path / "plot.svg").read_text()


def test_a_config_reads_back_as_it_was_written(tmp_path):
    checkpoints.write(TINY["mamba2"], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "mamba2" and config["architectures"] == ["Mamba2ForCausalLM"]
    assert config["intermediate_size"] == 64
