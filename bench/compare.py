#!/usr/bin/env python3
"""Runs Sarit and its peers side by side on the same random models, and writes a table and a picture of their speed."""
import argparse
import json
import os
import platform
import re
import shlex
import sys
from contextlib import suppress
from datetime import date
from importlib import metadata
from pathlib import Path
from time import monotonic

import checkpoints
import instructions
import report
from sides import HERE, ROOT, Case, Crate, LlamaCpp, Missing, Sarit, binary, build, run

SUITE = [
    ("mamba2-8m", "q4"), ("mamba2-8m", "q8"),
    ("mamba-130m", "q4"), ("mamba-130m", "q8"), ("mamba-130m", "f32"),
    ("mamba2-130m", "q4"), ("mamba2-130m", "q8"), ("mamba2-130m", "f16"), ("mamba2-130m", "f32"),
    ("mamba2-370m", "q4"),
]
PARTS = ["speed", "positions", "streams", "instructions", "arm"]
# What the parts after the first are measured with.
PART_MODEL = ("mamba2-130m", "q4")
POSITIONS = [1, 1024, 4096, 16384, 32768]
STREAMS = [1, 2, 4, 8]

EXAMPLES = """examples:
  python bench/compare.py                                    all of it: about 20 minutes on 2 cores, 3 GB of disk
  python bench/compare.py --quick                            the smallest model, 3 short runs: a minute
  python bench/compare.py --only mamba2-130m --parts speed   one model
  python bench/compare.py --no-build --models /tmp/models    with what is there already

Models, Sarit and the crates are made and built when they are first needed. A peer that is not installed is left out, and
said to be. See bench/README.md for a fresh machine."""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest model, 3 runs, short positions")
    parser.add_argument("--only", action="append", choices=list(checkpoints.SHAPES), metavar="MODEL",
                        help=f"measure only this model (may be repeated): {', '.join(checkpoints.SHAPES)}")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART",
                        help=f"what to measure: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--runs", type=int, metavar="N", help="runs of each side, in turns (default: 5; quick: 3)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="default: 1 2")
    parser.add_argument("--models", type=Path, default=ROOT / "target" / "bench", metavar="DIR",
                        help="where the model files are kept (default: target/bench)")
    parser.add_argument("--out", type=Path, default=HERE / "results", metavar="DIR", help="default: bench/results")
    parser.add_argument("--no-build", action="store_true", help="take the binaries that are there")
    args = parser.parse_args()
    args.runs = args.runs or (3 if args.quick else 5)
    if args.runs < 1 or min(args.threads) < 1:
        parser.error("runs and threads must be at least 1")
    return args


def sides(args):
    """Sarit, the sides that are there, and why others are not."""
    get = binary if args.no_build else build
    sarit = Sarit(get(ROOT, "sarit"), args.models)
    there, missing = [sarit], {}
    peers = HERE / "peers"
    makers = {
        "Sarit, f16 state": lambda: Sarit(sarit.binary, args.models, "f16"),
        "Sarit, i8 state": lambda: Sarit(sarit.binary, args.models, "i8"),
        "llama.cpp": lambda: LlamaCpp(args.models),
        "candle": lambda: Crate("candle", get(peers, "sarit-bench-peers"), args.models),
        "mamba-rs": lambda: Crate("mamba-rs", get(peers, "sarit-bench-peers"), args.models),
    }
    for name, make in makers.items():
        try:
            there.append(make())
        except Missing as reason:
            missing[name] = str(reason)
    return there, missing


def suite(args):
    """(model, weights) to measure; a model that is named and not in SUITE is measured in q4."""
    if not args.only:
        return [(model, weights) for model, weights in SUITE if model == "mamba2-8m" or not args.quick]
    unknown = set(args.only) - {model for model, _ in SUITE}
    return [case for case in SUITE if case[0] in args.only] + [(model, "q4") for model in args.only if model in unknown]


def in_turn(there, case, missing, what):
    """Every side with what it measures; one that fails leaves `there`, and `missing` says why."""
    for side in list(there):
        try:
            yield side, side.measure(case)
        except Missing as reason:
            there.remove(side)
            missing[f"{side.name}, {what}"] = str(reason)


def speed(case, there, runs, missing):
    """One row: every side's runs, in turns."""
    row = {"model": case.model, "weights": case.weights, "threads": case.threads,
           "parameters": checkpoints.parameters(checkpoints.SHAPES[case.model]), "runs": {}}
    there = [side for side in there if side.takes(case)]
    for _ in range(runs):
        for side, measured in in_turn(there, case, missing, f"{case.model} {case.weights}"):
            row["runs"].setdefault(side.name, []).append(measured)
    row["runs"] = {side.name: row["runs"][side.name] for side in there}
    return row


def positions(there, case, places, missing):
    """Milliseconds for a token after so many, of Sarit and llama.cpp."""
    there, rows = [side for side in there if side.name in ("Sarit", "llama.cpp")], []
    for position in places:
        at = Case(case.model, case.weights, case.threads, position, case.generate)
        rows.append({"position": position} | {
            side.name: 1e3 / measured["decode_tokens_per_s"]
            for side, measured in in_turn(there, at, missing, f"position {position}")})
    return part(case, rows)


def streams(sarit, case, runs):
    """Tokens a second of all streams together, in turns."""
    if "--streams" not in run([sarit.binary, "bench", "--help"]):
        raise Missing("this build of sarit has no --streams")
    speeds = {count: [] for count in STREAMS}
    for _ in range(runs):
        for count in STREAMS:
            measured = sarit.measure(case, "--streams", count)
            speeds[count].append(measured["many_streams"]["tokens_per_s"] if count > 1 else
                                 measured["decode_tokens_per_s"])
    return part(case, [{"streams": count, "decode_tokens_per_s": runs} for count, runs in speeds.items()])


def part(case, rows):
    return {"model": case.model, "weights": case.weights, "threads": case.threads, "rows": rows}


def machine():
    """What the numbers were measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    # A hypervisor may give the same name to several generations.
    numbers = re.search(r"cpu family\s*: (\d+)\s*model\s*: (\d+)", cpuinfo)
    generation = ", family {} model {}".format(*numbers.groups()) if numbers else ""
    caches = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    flags = set((re.search(r"flags\s*: (.*)", cpuinfo) or ["", ""])[1].split())
    isa = next((isa for isa in ("avx512_vnni", "avx2", "neon", "asimd") if isa in flags), "no known SIMD")
    return {"cpu": f"{model[1] if model else platform.processor() or platform.machine()}{generation} ({isa})",
            "cores": os.cpu_count(), "cache": caches[-1].read_text().strip() if caches else "unknown",
            "system": f"{platform.system()} {platform.release()}"}


def processor_time():
    """Time stolen by the hypervisor and time of all kinds, of all processors since the start of the machine."""
    line = Path("/proc/stat").read_text().splitlines()[0] if Path("/proc/stat").exists() else "cpu 0 0 0 1"
    numbers = [int(number) for number in line.split()[1:9]]
    return numbers[7] if len(numbers) > 7 else 0, sum(numbers)


def versions():
    found = {}
    for name, command in (("Sarit", ["git", "-C", ROOT, "describe", "--always", "--dirty"]), ("rustc", ["rustc", "-V"])):
        try:
            found[name] = f"Sarit {run(command).strip()}" if name == "Sarit" else run(command).strip()
        except Missing as reason:
            found[name] = f"{name}: {reason}"
    lock = (HERE / "peers" / "Cargo.lock").read_text()
    for name in ("candle-transformers", "mamba-rs"):
        found[name] = f"{name} " + re.search(rf'name = "{name}"\nversion = "(.*)"', lock)[1]
    with suppress(metadata.PackageNotFoundError):
        found["llama.cpp"] = f"llama-cpp-python {metadata.version('llama-cpp-python')}"
    return found


def main():
    args = arguments()
    args.models.mkdir(parents=True, exist_ok=True)
    start, (stolen, total) = monotonic(), processor_time()
    try:
        there, missing = sides(args)
    except Missing as reason:
        sys.exit(f"compare.py: {reason}")
    sarit = there[0]
    wanted = suite(args)
    sizes = {"prompt": 512, "generate": 64}
    special = PART_MODEL if PART_MODEL in wanted else (wanted[0][0], "q4")
    on_most = Case(*special, max(args.threads), **sizes)

    results = {"date": date.today().isoformat(), "command": shlex.join(["python", "bench/compare.py", *sys.argv[1:]]),
               "machine": machine(), "versions": versions(), "runs": args.runs, **sizes, "speed": [], "missing": missing}

    def attempt(name, measure):
        if name in args.parts:
            print(f"measuring {name}", file=sys.stderr)
            try:
                results[name] = measure()
            except Missing as reason:
                missing[name] = str(reason)

    if "speed" in args.parts:
        for model, weights in wanted:
            for threads in args.threads:
                print(f"measuring {model} {weights}, {threads} threads", file=sys.stderr)
                row = speed(Case(model, weights, threads, **sizes), there, args.runs, missing)
                if sarit.name not in row["runs"]:
                    sys.exit(f"compare.py: {missing[f'{sarit.name}, {model} {weights}']}")
                results["speed"].append(row)
    places = POSITIONS[:3] if args.quick else POSITIONS
    attempt("positions", lambda: positions(there, on_most, places, missing))
    attempt("streams", lambda: streams(sarit, on_most, args.runs))
    attempt("instructions", lambda: {"bundled": instructions.per_token(sarit.binary)})
    attempt("arm", lambda: instructions.on_arm(args.models))
    results["minutes"] = (monotonic() - start) / 60
    now = processor_time()
    results["machine"]["stolen"] = (now[0] - stolen) / max(1, now[1] - total)
    write(results, args)


def write(results, args):
    """The JSON, the picture, the page; says where they are."""
    args.out.mkdir(parents=True, exist_ok=True)
    name = "-".join([results["date"], *re.findall(r"[a-z0-9]+", results["machine"]["cpu"].lower())][:6])
    name += "-quick" if args.quick else ""
    base = args.out / name
    base.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    try:
        import plot
        plot.draw(results, base.with_suffix(".svg"))
    except ImportError:
        results["missing"]["picture"] = "matplotlib is not installed"
    base.with_suffix(".md").write_text(report.markdown(results, f"{name}.svg"))
    print(base.with_suffix(".md"))


if __name__ == "__main__":
    main()
