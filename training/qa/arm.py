"""One arm of compare.py: trains a model as train.py or distill.py would (with their options), then measures it in place.

    python arm.py train --out run/scratch --seconds 100 --total 100 --rows rows --skip 4
    python arm.py distill --out run/student --seconds 50 --teacher run/teacher/ckpt --rows rows --skip 4

Writes OUT/figures.json and OUT/answers.jsonl beside the checkpoint. The first --skip batches of the rows are never trained
on: their answer loss is the measure with the least noise.
"""
import json
import sys
import time
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer

import distill
import train
from batches import Recorded
from evaluate import answer_loss, answers, bits_per_byte, exact, lines_of, read, summary
from tokenizer import prompt

SHARED = Path(__file__).parents[2] / "tests" / "data" / "indic-qa"
SETS = {"natural-dev": Path(__file__).parent / "natural-dev.jsonl", "shared": SHARED / "natural-dev.jsonl",
        "eval": SHARED / "eval.jsonl"}


def measured(model, args, out):
    """Yields {figure: value} as they come: held-out rows, exact match per set, bits per byte of lm-text.txt."""
    dtype = torch.bfloat16 if args.device != "cpu" else torch.float32
    tokenizer = Tokenizer.from_file(args.tokenizer)
    yield answer_loss(model, list(islice(Recorded(args.rows, args.batch), args.skip)), args.text_weight, dtype)
    if not args.most:
        return
    with open(out / "answers.jsonl", "w", encoding="utf-8") as f:
        for name, path in SETS.items():
            rows = read(path)
            rows = rows[::-(-len(rows) // args.most)]
            given = answers(model, tokenizer, [prompt(r["context"], r["question"]) for r in rows], dtype)
            yield {name: summary(rows, given)}
            for row, answer in zip(rows, given):
                line = {"set": name, "question": row["question"], "answer": row["answer"], "given": answer,
                        "exact": exact(answer, row)}
                f.write(json.dumps(line, ensure_ascii=False) + "\n")
    yield {"bits_per_byte": round(bits_per_byte(model, tokenizer, lines_of(SHARED / "lm-text.txt"), dtype), 4)}


def main():
    method = {"train": train, "distill": distill}[sys.argv[1]]
    p = method.arguments()
    p.add_argument("--most", type=int, default=700, help="rows of a set, each n-th of a larger one; 0: measure no sets")
    args = p.parse_args(sys.argv[2:])
    if not args.rows or args.skip < 1:
        p.error("an arm is measured on batches of --rows, of which --skip leaves out one or more")
    model, totals = getattr(method, method.__name__)(args)
    figures = {"parameters": sum(p.numel() for p in model.parameters()), **totals}
    out, begun = Path(args.out), time.time()
    for more in measured(model.eval(), args, out):
        figures.update(more, measuring=round(time.time() - begun, 1))
        (out / "figures.json").write_text(json.dumps(figures, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
