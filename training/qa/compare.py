"""Training from scratch, MOHAWK distillation and another shape at equal GPU time, one after another on one GPU.

    python compare.py --out results --wall 560

Rows are made once, on all cores, and every arm reads the same ones in the same order. Arms, with X = T + S:
  teacher   transformer, T seconds
  mohawk    Mamba-2 from that teacher, all three stages in S seconds: X with its teacher
  scratch   the same Mamba-2 from random weights, X seconds
  shape     another shape of about the same size from random weights, X seconds
  short     as scratch, S seconds: what the student's own time buys without a teacher
T and S follow from the wall time that is left once all of them have compiled. An arm that fails is reported and the others
go on. RESULTS.md and results.json in the folder are rewritten after every arm.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import checkpoint
from model import Config, LanguageModel

HERE = Path(__file__).parent
HELD = 4             # batches kept for measuring
TEACHER_SHARE = 0.6  # of X
START = 24           # seconds an arm takes beside its training (start, cached compilation, measuring), before one was seen
END = 8              # seconds kept for the last files
COLUMNS = ("arm", "layers x hidden", "parameters", "seconds", "positions", "waited", "held-out answer loss",
           "answer tokens right", "natural-dev answerable", "unanswerable", "shared", "eval", "bits per byte")


class Comparison:
    def __init__(self, args):
        self.args, self.begun = args, time.time()
        self.out, self.work = Path(args.out), Path(tempfile.mkdtemp(prefix="compare-"))
        self.out.mkdir(parents=True, exist_ok=True)
        self.arms, self.notes = {}, []
        # What cannot be compiled runs as it is.
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TORCHDYNAMO_SUPPRESS_ERRORS": "1"}

    def left(self):
        return self.args.wall - (time.time() - self.begun)

    def say(self, text):
        line = f"[{time.time() - self.begun:6.1f} s] {text}"
        print(line, flush=True)
        self.notes.append(line)

    def command(self, method, name, seconds, shape, *more):
        layers, hidden = shape
        a = self.args
        return [sys.executable, str(HERE / "arm.py"), method, "--out", str(self.work / name), "--seconds", str(seconds),
                "--layers", str(layers), "--hidden", str(hidden), "--batch", str(a.batch), "--warmup", str(a.warmup),
                "--rows", str(self.work / "rows"), "--skip", str(HELD), "--keep", "inf", *map(str, more)]

    def train(self, name, seconds, shape, *more):
        return self.command("train", name, seconds, shape, "--total", seconds, *more)

    def distill(self, name, seconds, *more):
        return self.command("distill", name, seconds, self.args.shape, *more)

    def start(self, name, command):
        log = open(self.work / f"{name}.log", "w")
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=self.environment, cwd=HERE)

    def compile(self):
        """One step of every kind of arm, all at a time: what they compile is found in the cache afterwards."""
        a, tiny, only = self.args, 0.001, ("--most", 0)
        teacher = self.work / "warm-teacher"
        teacher.mkdir()
        checkpoint.save_parts(LanguageModel(Config(layers=a.shape[0], hidden=a.shape[1], mixer="attention")).state_dict(), teacher / "ckpt")
        stages = {"matrix": (1, 0, 0), "hidden": (0, 1, 0), "output": (0, 0, 1)}
        commands = {
            "compile-teacher": self.train("compile-teacher", tiny, a.shape, "--mixer", "attention", *only),
            "compile-scratch": self.train("compile-scratch", tiny, a.shape, *only),
            "compile-shape": self.train("compile-shape", tiny, a.second, *only),
            **{f"compile-{stage}": self.distill(f"compile-{stage}", tiny, "--teacher", teacher / "ckpt", "--shares",
                                                *shares, *only) for stage, shares in stages.items()},
        }
        running = {name: self.start(name, command) for name, command in commands.items()}
        until = time.time() + a.compile
        for name, process in running.items():
            try:
                code = process.wait(max(0.1, until - time.time()))
                self.say(f"{name}: {'done' if code == 0 else f'failed, status {code}: ' + self.tail(name)}")
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self.say(f"{name}: stopped, not done in {a.compile} s")

    def tail(self, name, lines=3):
        text = (self.work / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip()
        return " | ".join(line[:300] for line in text.split("\n")[-lines:])

    def arm(self, name, shape, seconds, command):
        """Runs an arm and returns the seconds it took beside its training; None when it gave no figures."""
        if self.left() < END + seconds + (0.5 * START if seconds > 1 else 0):
            self.arms[name] = {"shape": shape, "failed": f"no time left: {self.left():.0f} s"}
            self.report()
            return None
        self.say(f"{name}: {seconds:.0f} s of training: {' '.join(command[1:])}")
        begun = time.time()
        process = self.start(name, command)
        try:
            failure = process.wait(max(1.0, min(self.left() - END, seconds + self.args.compile)))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            failure = "out of time"
        figures = self.work / name / "figures.json"
        self.arms[name] = {"shape": shape, **(json.loads(figures.read_text()) if figures.exists() else {})}
        if failure:
            self.arms[name]["failed"] = f"{failure}: {self.tail(name)}"
        wall = time.time() - begun
        self.arms[name]["wall"] = round(wall, 1)
        self.report()
        return wall - seconds if figures.exists() else None

    def row(self, name, arm):
        def of(group, key):
            return arm.get(group, {}).get(key, ["-"])[0]
        count = lambda key: f"{arm[key]:,}" if key in arm else "-"
        return [name, "{} x {}".format(*arm["shape"]), count("parameters"), arm.get("seconds", "-"), count("positions"),
                arm.get("waited", "-"), arm.get("answer_loss", "-"), arm.get("answer_accuracy", "-"),
                of("natural-dev", "answerable"), of("natural-dev", "unanswerable"), of("shared", "all"), of("eval", "all"),
                arm.get("bits_per_byte", "-")]

    def report(self):
        rows = [COLUMNS, ["---"] * len(COLUMNS), *(self.row(name, arm) for name, arm in self.arms.items())]
        table = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
        failed = "".join(f"\n{name} failed: {arm['failed']}\n" for name, arm in self.arms.items() if "failed" in arm)
        print(table + "\n" + failed, flush=True)
        text = f"{table}\n{failed}\n" + "\n".join(self.notes) + "\n"
        (self.out / "RESULTS.md").write_text(text, encoding="utf-8")
        (self.out / "results.json").write_text(json.dumps(self.arms, indent=1, ensure_ascii=False), encoding="utf-8")
        with open(self.out / "logs.txt", "w", encoding="utf-8") as f:
            for log in sorted(self.work.glob("*.log")):
                f.write(f"== {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-400_000:]}\n")

    def run(self):
        a = self.args
        recorder = subprocess.Popen(
            [sys.executable, str(HERE / "batches.py"), "--out", str(self.work / "rows"), "--count", str(a.count),
             "--batch", str(a.batch), "--workers", str(a.workers)], env=self.environment, cwd=HERE, start_new_session=True)
        try:
            self.compile()
            usable = self.left() - END - 5 * START
            teacher = max(a.least, TEACHER_SHARE * usable / (3 + 1 - TEACHER_SHARE))
            spent = self.arm("teacher", a.shape, teacher, self.train("teacher", teacher, a.shape, "--mixer", "attention",
                                                                        "--most", a.most))
            # Four arms are left: S + 2 (T + S) + S seconds of training.
            student = max(a.least, (self.left() - END - 4 * max(spent or START, 0.8 * START) - 2 * teacher) / 4)
            whole = teacher + student
            self.say(f"T = {teacher:.1f} s, S = {student:.1f} s, X = {whole:.1f} s; "
                     f"{Path(self.work / 'rows').stat().st_size // (3 * 1025):,} rows recorded")
            self.arm("mohawk", a.shape, student, self.distill("mohawk", student, "--teacher", self.work / "teacher" / "ckpt",
                                                              "--most", a.most))
            for name, shape, seconds in (("scratch", a.shape, whole), ("shape", a.second, whole), ("short", a.shape, student)):
                self.arm(name, shape, seconds, self.train(name, seconds, shape, "--most", a.most))
        finally:
            stop(recorder)
            self.keep()
            shutil.rmtree(self.work, ignore_errors=True)

    def keep(self):
        """The checkpoint of the better of mohawk and scratch, by the loss on held-out rows."""
        done = [name for name in ("mohawk", "scratch") if "answer_loss" in self.arms.get(name, {})]
        if done:
            better = min(done, key=lambda name: self.arms[name]["answer_loss"])
            for part in (self.work / better).glob("ckpt-*.safetensors"):
                shutil.copy(part, self.out / f"{better}-{part.name}")
            self.say(f"kept: {better}")
        self.report()


def stop(process):
    """Ends the recorder with its workers: they are a session of their own."""
    try:
        os.killpg(process.pid, 15)
    except ProcessLookupError:
        pass
    process.wait()


def shape(text):
    layers, hidden = map(int, text.split("x"))
    return layers, hidden


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True, help="folder for RESULTS.md, results.json, logs.txt and the better checkpoint")
    p.add_argument("--wall", type=float, default=560, help="seconds for everything")
    p.add_argument("--compile", type=float, default=100, help="seconds at most for compiling at the start")
    p.add_argument("--least", type=float, default=5, help="seconds at least for teacher and student")
    p.add_argument("--shape", type=shape, default=(Config.layers, Config.hidden), help="LAYERSxHIDDEN")
    p.add_argument("--second", type=shape, default=(7, 512), help="the other shape")
    p.add_argument("--batch", type=int, default=32, help="rows per step")
    p.add_argument("--warmup", type=int, default=60, help="steps over which the rate rises")
    p.add_argument("--count", type=int, default=5000, help="batches to record; a faster arm reads them again")
    p.add_argument("--workers", type=int, default=10, help="processes that make rows")
    p.add_argument("--most", type=int, default=700, help="rows of a set that are measured")
    Comparison(p.parse_args()).run()


if __name__ == "__main__":
    main()
