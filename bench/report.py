"""Medians, ratios, and the table in Markdown."""
from statistics import median

# Ratios to llama.cpp on 2 threads that the project set itself: (model, weights, side) -> (decode, prompt).
TARGETS = {
    ("mamba-130m", "q4", "Sarit"): (2.3, 4),
    ("mamba2-130m", "q4", "Sarit"): (1.6, 2),
    ("mamba2-130m", "q4", "Sarit, f16 state"): (2.1, None),
    ("mamba2-130m", "q4", "Sarit, i8 state"): (2.1, None),
    ("mamba2-130m", "q8", "Sarit"): (1.5, 2),
    ("mamba2-370m", "q4", "Sarit"): (1.3, 2),
    ("mamba2-370m", "q4", "Sarit, i8 state"): (1.7, None),
    ("mamba2-8m", "q8", "Sarit"): (3, 1.5),
}
# Of the decoding of candle and mamba-rs.
CRATES, CRATE_TARGET = ("candle", "mamba-rs"), 3


def values(row, side, key):
    """One number a run."""
    return [run[key] for run in row["runs"].get(side, []) if key in run]


def ratio(row, side, peer, key):
    """Median of the ratios of runs that stood side by side, or None."""
    pairs = list(zip(values(row, side, key), values(row, peer, key)))
    return median(ours / theirs for ours, theirs in pairs) if pairs else None


def speed(numbers):
    """Median and range."""
    if not numbers:
        return "-"
    digits = 0 if median(numbers) >= 100 else 1
    middle, low, high = (f"{n:,.{digits}f}" for n in (median(numbers), min(numbers), max(numbers)))
    return f"{middle} ({low}–{high})"


def against(number, target=None):
    """A ratio, and what it was to be."""
    if number is None:
        return "-"
    return f"{number:.2f}" if target is None else f"{number:.2f} (≥ {target}: {'yes' if number >= target else 'no'})"


def table(head, rows):
    """A Markdown table, or nothing if there are no rows."""
    if not rows:
        return []
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines] + [""]


def llama_rows(results):
    for row in results["speed"]:
        for side in row["runs"]:
            if not side.startswith("Sarit"):
                continue
            wanted = TARGETS.get((row["model"], row["weights"], side), (None, None))
            wanted = wanted if row["threads"] == 2 else (None, None)
            bytes_per_token = values(row, side, "bytes_per_token")[0]
            yield [
                row["model"], row["weights"], row["threads"], side,
                speed(values(row, side, "prefill_tokens_per_s")),
                speed(values(row, "llama.cpp", "prefill_tokens_per_s")),
                against(ratio(row, side, "llama.cpp", "prefill_tokens_per_s"), wanted[1]),
                speed(values(row, side, "decode_tokens_per_s")),
                speed(values(row, "llama.cpp", "decode_tokens_per_s")),
                against(ratio(row, side, "llama.cpp", "decode_tokens_per_s"), wanted[0]),
                f"{bytes_per_token / 1e6:.1f}",
                f"{median(values(row, side, 'read_bandwidth_bytes_per_s')) / 1e9:.1f}",
                f"{100 * median(values(row, side, 'decode_bandwidth_fraction')):.0f} %",
            ]


def crate_rows(results):
    for row in results["speed"]:
        for peer in CRATES:
            if peer in row["runs"]:
                yield [row["model"], row["weights"], row["threads"], peer,
                       speed(values(row, "Sarit", "decode_tokens_per_s")),
                       speed(values(row, peer, "decode_tokens_per_s")),
                       against(ratio(row, "Sarit", peer, "decode_tokens_per_s"), CRATE_TARGET)]


def position_rows(results):
    for row in results["positions"]["rows"]:
        yield [f"{row['position']:,}", *(f"{row[side]:.3f}" if side in row else "-" for side in ("Sarit", "llama.cpp"))]


def stream_rows(results):
    by_streams = {row["streams"]: row["decode_tokens_per_s"] for row in results["streams"]["rows"]}
    for streams, runs in by_streams.items():
        yield [streams, speed(runs), against(median(a / b for a, b in zip(runs, by_streams[1])),
                                             4 if streams == 8 else None)]


def arm_rows(rows):
    """Millions of instructions, and how many times as many the scalar kernels take on that CPU."""
    scalar = {row["cpu"]: row for row in rows if row["backend"] == "scalar"}
    for row in rows:
        yield [row["cpu"], row["backend"], *(
            f"{row[part] / 1e6:.2f} million ({scalar[row['cpu']][part] / row[part]:.2f} times fewer)"
            if row["backend"] != "scalar" else f"{row[part] / 1e6:.2f} million" for part in ("decode", "prompt"))]


def markdown(results, plot):
    """The whole page; `plot` is the name of the picture beside it."""
    machine = results["machine"]
    lines = [
        f"# Sarit and its peers, {results['date']}", "",
        f"{machine['cpu']}, {machine['cores']} cores, last-level cache {machine['cache']}, {machine['system']}; "
        f"the hypervisor took {100 * machine['stolen']:.1f} % of the time. "
        f"{', '.join(results['versions'].values())}.", "",
        f"Made by `{results['command']}` in {results['minutes']:.0f} minutes. Tokens a second: median of "
        f"{results['runs']} runs (least–greatest). The sides take turns, and a ratio is the median of the ratios of "
        "runs that stood side by side.", "",
        "## Against llama.cpp", "",
        "q4 against Q4_0, q8 against Q8_0, f16 and f32 alike. MB/token: weights, state read, and what of it is written. "
        "Bandwidth: reading memory in the same run on the same threads, and the part of it that decoding reaches; a "
        "model in the cache can exceed 100 %.", "",
        *table(["model", "weights", "threads", "side", f"prompt of {results['prompt']}", "llama.cpp", "ratio", "decode",
                "llama.cpp", "ratio", "MB/token", "GB/s", "reached"], list(llama_rows(results))),
    ]
    crates = list(crate_rows(results))
    if crates:
        lines += ["## Against candle and mamba-rs: decode", "",
                  *table(["model", "weights", "threads", "peer", "Sarit", "peer's", "ratio"], crates)]
    if "positions" in results:
        part = results["positions"]
        lines += [f"## Milliseconds a token by position: {part['model']} {part['weights']}, {part['threads']} threads",
                  "", *table(["position", "Sarit", "llama.cpp"], list(position_rows(results)))]
    if "streams" in results:
        part = results["streams"]
        lines += [f"## Several streams at once: {part['model']} {part['weights']}, {part['threads']} threads", "",
                  *table(["streams", "tokens/s of all", "ratio to one"], list(stream_rows(results)))]
    if "instructions" in results:
        lines += ["## Instructions a decoded token", "",
                  *table(["model", "instructions (valgrind, AVX2 or less)"],
                         [[name, f"{count / 1e6:.3f} million"] for name, count in results["instructions"].items()])]
    if "arm" in results:
        lines += ["## Instructions a token on emulated Arm CPUs, bundled model", "",
                  *table(["CPU in QEMU", "kernels", "decode", "prompt"], list(arm_rows(results["arm"])))]
    if results["missing"]:
        lines += ["## Missing", "", *(f"- {what}: {why}" for what, why in results["missing"].items()), ""]
    return "\n".join([*lines, f"![tokens a second by size, time a token by position]({plot})", ""])
