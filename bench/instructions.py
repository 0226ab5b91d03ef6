"""Instructions per token, counted by valgrind and, for Arm, in QEMU: they do not vary from run to run, but for what a clock decides."""
import re

from sides import HERE, ROOT, Missing, run

TOKENS = 64
ARM_BINARY = ROOT / "target/aarch64-unknown-linux-gnu/release/sarit"
# Emulated CPUs and the best kernels that each runs.
ARM = {"cortex-a53": "neon", "cortex-a76": "dotprod", "max": "i8mm"}


def per_token(binary, *model):
    """Of decoding, on this machine."""
    tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1", binary]
    return _of_decoding(lambda sizes: _count([*tool, "bench", *model, *sizes]))


def on_arm(models):
    """Of decoding and of a prompt in chunks, for each CPU in ARM, with its best kernels and with the scalar ones."""
    if not ARM_BINARY.exists():
        raise Missing(f"no {ARM_BINARY.relative_to(ROOT)}: tests/on-target/arm-cargo build --release makes it")
    counter = models / "count.so"
    run(["gcc", "-shared", "-fPIC", "-O2", HERE / "count.c", "-o", counter])
    rows = []
    for cpu, best in ARM.items():
        tool = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu", cpu, "-plugin", counter, ARM_BINARY]
        for backend in (best, "scalar"):
            def count(sizes):
                return _count([*tool, "bench", "--backend", backend, *sizes])
            rows.append({"cpu": cpu, "backend": backend, "decode": _of_decoding(count), "prompt": _of_prompts(count)})
    return rows


def _of_decoding(count):
    """The difference between decoding 2·TOKENS and TOKENS tokens, so that start and end do not count."""
    few, many = (count(_sizes(1, n)) for n in (TOKENS, 2 * TOKENS))
    return (many - few) / TOKENS


def _of_prompts(count):
    """The same for prompts."""
    few, many = (count(_sizes(n, 1)) for n in (TOKENS, 2 * TOKENS))
    return (many - few) / TOKENS


def _sizes(prompt, generate):
    return ["--prompt", prompt, "--generate", generate, "--runs", 1, "--threads", 1]


def _count(command):
    found = re.search(r"Collected : (\d+)", run(command))
    if not found:
        raise Missing(f"{command[0]} counted nothing")
    return int(found[1])
