"""Instructions per decoded token, counted by valgrind: they do not vary from run to run."""
import re

from sides import Missing, run

TOKENS = 64


def per_token(binary, *model):
    """The difference between decoding 2·TOKENS and TOKENS tokens, so that start and end do not count; one thread."""
    few, many = (_count([binary, "bench", *model, "--prompt", 1, "--generate", n, "--runs", 1, "--threads", 1])
                 for n in (TOKENS, 2 * TOKENS))
    return (many - few) / TOKENS


def _count(command):
    tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1"]
    found = re.search(r"Collected : (\d+)", run([*tool, *command]))
    if not found:
        raise Missing("valgrind counted nothing")
    return int(found[1])
