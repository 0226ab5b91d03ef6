"""The picture: tokens a second against model size, and the time of a token against its position."""
from statistics import median

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

COLORS = {"Sarit": "#1b6ca8", "llama.cpp": "#c8553d"}


def draw(results, path):
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "sarit", "font.size": 9})
    figure, (by_size, by_position) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    rows = [row for row in results["speed"] if row["threads"] == max(r["threads"] for r in results["speed"])]
    for side, color in COLORS.items():
        for weights, marker, line in (("q4", "o", "-"), ("q8", "s", "--")):
            points = sorted((row["parameters"] / 1e6, median(run["decode_tokens_per_s"] for run in row["runs"][side]))
                            for row in rows
                            if row["weights"] == weights and side in row["runs"] and row["model"].startswith("mamba2"))
            if points:
                by_size.loglog(*zip(*points), marker=marker, linestyle=line, color=color, label=f"{side}, {weights}")
    by_size.set(xlabel="parameters (millions), Mamba-2", ylabel="decoded tokens/s", title="Speed by size")
    by_size.grid(alpha=0.3)
    if by_size.lines:
        by_size.legend(frameon=False)
    if "positions" in results:
        part = results["positions"]
        for side, color in COLORS.items():
            points = [(row["position"], row[side]) for row in part["rows"] if side in row]
            if points:
                by_position.plot(*zip(*points), marker="o", color=color, label=side)
        by_position.set(xlabel="position", ylabel="ms a token", title=f"Time by position: {part['model']} {part['weights']}")
        by_position.set_ylim(bottom=0)
        by_position.grid(alpha=0.3)
        by_position.legend(frameon=False)
    else:
        by_position.set_axis_off()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
