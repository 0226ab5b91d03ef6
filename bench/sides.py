"""The programs that are compared. A side makes its model file from a checkpoint and runs as a process of its own."""
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import checkpoints

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


class Missing(Exception):
    """Why a side cannot take part."""


@dataclass(frozen=True)
class Case:
    """What is measured: a model in one format of its weights, on some threads."""
    model: str
    weights: str
    threads: int
    prompt: int = 512
    generate: int = 64


def run(command, **options):
    """Standard output of a command, or Missing with the last line that it said."""
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    except OSError as error:
        raise Missing(f"{command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Missing(said[-1] if said else f"{command[0]} ended with {done.returncode}")
    return done.stdout


def checkpoint(models, name):
    """The folder of a random checkpoint, made when it is first asked for."""
    folder = models / name
    if not (folder / "model.safetensors").exists():
        print(f"making the checkpoint {name}", file=sys.stderr)
        checkpoints.write(checkpoints.SHAPES[name], folder)
    return folder


class Sarit:
    """`sarit bench`, with elements of the state in `state`."""

    def __init__(self, binary, models, state="f32"):
        self.binary, self.models, self.state = binary, models, state
        self.name = "Sarit" if state == "f32" else f"Sarit, {state} state"
        if state != "f32" and "--state" not in run([binary, "bench", "--help"]):
            raise Missing("this build of sarit has no --state")

    def takes(self, case):
        return self.state == "f32" or case.weights in ("q4", "q8")

    def file(self, case):
        path = self.models / f"{case.model}.{case.weights}.sarit"
        if not path.exists():
            source = checkpoint(self.models, case.model)
            run([self.binary, "convert", source, "-o", path, "--weights", case.weights])
        return path

    def measure(self, case, *extra):
        """What `sarit bench --json` measures."""
        if self.state != "f32":
            extra += ("--state", self.state)
        sizes = ["--prompt", case.prompt, "--generate", case.generate, "--threads", case.threads]
        return json.loads(run([self.binary, "bench", self.file(case), *sizes, "--runs", 1, *extra, "--json"]))


class LlamaCpp:
    """llama.cpp by way of llama-cpp-python."""
    name = "llama.cpp"

    def __init__(self, models):
        self.models = models
        run([sys.executable, "-c", "import llama_cpp"])

    def takes(self, case):
        return True

    def file(self, case):
        path = self.models / f"{case.model}.{case.weights}.gguf"
        if not path.exists():
            run([sys.executable, HERE / "gguf_files.py", checkpoint(self.models, case.model), path, case.weights])
        return path

    def measure(self, case):
        sizes = ["--prompt", case.prompt, "--generate", case.generate, "--threads", case.threads]
        return json.loads(run([sys.executable, HERE / "llama_run.py", self.file(case), *sizes]))


class Crate:
    """candle or mamba-rs, in bench/peers. They decode only: their prompts are not compared."""

    def __init__(self, name, binary, models):
        self.name, self.binary, self.models = name, binary, models

    def takes(self, case):
        if self.name == "mamba-rs":  # Mamba-1 only, on a CPU in f32 and on one thread
            one = checkpoints.SHAPES[case.model]["model_type"] == "mamba"
            return one and (case.weights, case.threads) == ("f32", 1)
        return case.weights in ("f32", "f16")

    def file(self, case):
        return checkpoint(self.models, case.model)

    def measure(self, case):
        threads = {name: str(case.threads) for name in ("RAYON_NUM_THREADS", "CANDLE_NUM_THREADS")}
        command = [self.binary, self.name, self.file(case), "--dtype", case.weights, "--generate", case.generate]
        return json.loads(run(command, env=os.environ | threads))


def build(manifest_dir, package):
    """Builds a package and returns its binary."""
    print(f"building {package}", file=sys.stderr)
    try:
        subprocess.run(["cargo", "build", "--release", "--quiet", "-p", package], cwd=manifest_dir, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Missing(f"{package} could not be built") from error
    return binary(manifest_dir, package)


def binary(manifest_dir, package):
    """Where cargo puts a package's binary."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", "target"))
    path = manifest_dir / target / "release" / package
    if not path.exists():
        raise Missing(f"{path} does not exist")
    return path
