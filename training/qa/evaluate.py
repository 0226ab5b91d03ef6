"""Exact match, F1 and bits per byte of a checkpoint.

    python evaluate.py --weights run/ckpt --out run/eval natural-dev.jsonl other.jsonl --lm-text lm-text.txt

A row is {lang, kind, context, question, answer, accept?}. Exact: equal to the answer or one of `accept` after NFC, strip
and removal of one final full stop (Urdu's too) or danda, as `sarit eval qa` has it. F1 is on words parted by spaces.
"""
import argparse
import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import checkpoint
from model import BOS, Config, LanguageModel, greedy, laid, slots
from records_wording import NOTGIVEN
from tokenizer import prompt

HERE = Path(__file__).parent
BATCH, LENGTH = 32, 1024     # rows and positions that the model reads at once


def normal(text):
    return re.sub(r"[.।۔]$", "", unicodedata.normalize("NFC", text).strip()).strip()


def exact(answer, row):
    return normal(answer) in {normal(a) for a in [row["answer"], *row.get("accept", [])]}


def f1(answer, row):
    def one(gold):
        p, g = normal(answer).split(), normal(gold).split()
        common = sum((Counter(p) & Counter(g)).values())
        return 2 * common / (len(p) + len(g)) if common else 0.0
    return max(one(a) for a in [row["answer"], *row.get("accept", [])])


def read(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def lines_of(path):
    return [line for line in Path(path).read_text(encoding="utf-8").split("\n") if line]


def answers(model, tokenizer, prompts, dtype):
    ids = [e.ids for e in tokenizer.encode_batch(prompts, add_special_tokens=False)]
    return [tokenizer.decode(o).strip() for o in greedy(model, ids, batch=BATCH, length=LENGTH, dtype=dtype)]


def summary(rows, given):
    """{group: [exact %, F1 %, rows]} for all, answerable, unanswerable, languages and kinds, and unanswerable precision and recall."""
    groups = defaultdict(list)
    for row, answer in zip(rows, given):
        none = normal(row["answer"]) == normal(NOTGIVEN[row["lang"]])
        keys = ["all", "unanswerable" if none else "answerable", "lang:" + row["lang"]]
        keys.append("kind:" + (row["kind"].split("/")[2] if row["kind"].count("/") == 3 else row["kind"]))
        for k in keys:
            groups[k].append((exact(answer, row), f1(answer, row)))
    table = {k: [round(100 * sum(x) / len(v), 1) for x in zip(*v)] + [len(v)] for k, v in sorted(groups.items())}
    said = [normal(a) == normal(NOTGIVEN[r["lang"]]) for r, a in zip(rows, given)]
    true = [normal(r["answer"]) == normal(NOTGIVEN[r["lang"]]) for r in rows]
    hit = sum(s and t for s, t in zip(said, true))
    table["unanswerable precision, recall"] = [round(100 * hit / max(1, sum(said)), 1), round(100 * hit / max(1, sum(true)), 1)]
    return table


def kept_state(rows):
    """[(index, prompt)] of the second and later questions of a context, asked after the earlier ones and their answers."""
    out, said = [], defaultdict(str)
    for i, row in enumerate(rows):
        earlier = said[row["context"]]
        if earlier:
            out.append((i, f"<bos><ctx>{row['context']}{earlier}<q>{row['question']}<a>"))
        said[row["context"]] += f"<q>{row['question']}<a>{row['answer']}<eos>"
    return out


@torch.no_grad()
def bits_per_byte(model, tokenizer, lines, dtype):
    """Of each line after <bos>, cut at 1,024 tokens; the bytes are those of what is left."""
    device = model.backbone.embeddings.weight.device
    encoded = [e.ids for e in tokenizer.encode_batch(lines, add_special_tokens=False)]
    texts = [[BOS] + ids[:LENGTH - 1] for ids in encoded]
    kept = [line if len(ids) < LENGTH else tokenizer.decode(ids[:LENGTH - 1]) for ids, line in zip(encoded, lines)]
    nats = 0.0
    for group in slots([len(t) for t in texts], BATCH, LENGTH):
        ids = laid(texts, group, BATCH, LENGTH, device)
        x = model.hidden(ids, dtype=dtype)
        for i, row, column in group:
            inside = slice(column, column + len(texts[i]))
            logits = model.head_logits(x[row, inside], dtype)
            nats += float(F.cross_entropy(logits[:-1], ids[row, inside][1:], reduction="sum"))
    return nats / math.log(2) / sum(len(text.encode()) for text in kept)


@torch.no_grad()
def answer_loss(model, batches, text_weight, dtype):
    """Mean answer loss (nats per token), text loss and share of right answer tokens over batches of rows."""
    device = model.backbone.embeddings.weight.device
    sums = 0.0
    for ids, classes in batches:
        ids, classes = torch.from_numpy(ids.astype("int64")).to(device), torch.from_numpy(classes).to(device)
        sums = sums + torch.stack(model.loss(ids, classes, text_weight, dtype=dtype)[1:])
    return dict(zip(("answer_loss", "text_loss", "answer_accuracy"), (round(float(v) / len(batches), 4) for v in sums)))


def load(weights, layers, hidden, device):
    model = LanguageModel(Config(layers=layers, hidden=hidden))
    model.load_state_dict(checkpoint.load_parts(weights))
    return model.to(device).eval()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("rows", nargs="*", help="jsonl files")
    p.add_argument("--weights", required=True, help="stem of the checkpoint parts")
    p.add_argument("--tokenizer", default=str(HERE / "tokenizer.json"))
    p.add_argument("--layers", type=int, default=Config.layers)
    p.add_argument("--hidden", type=int, default=Config.hidden)
    p.add_argument("--lm-text")
    p.add_argument("--every", type=int, default=1, help="only each n-th row of files over 1,000 rows")
    p.add_argument("--bf16", action="store_true", help="bfloat16 matrix products: faster, for a look in between")
    p.add_argument("--out", required=True, help="folder for the summary and the answers")
    args = p.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    model, tokenizer = load(args.weights, args.layers, args.hidden, device), Tokenizer.from_file(args.tokenizer)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    results = {}
    with open(out / "answers.jsonl", "w", encoding="utf-8") as f:
        for path in args.rows:
            rows = read(path)
            rows = rows[::args.every] if len(rows) > 1000 else rows
            given = answers(model, tokenizer, [prompt(r["context"], r["question"]) for r in rows], dtype)
            results[path] = summary(rows, given)
            for row, answer in zip(rows, given):
                f.write(json.dumps({**row, "given": answer, "exact": exact(answer, row)}, ensure_ascii=False) + "\n")
            later = kept_state(rows)
            if later:
                kept = answers(model, tokenizer, [text for _, text in later], dtype)
                fresh = sum(exact(given[i], rows[i]) for i, _ in later)
                same = sum(exact(a, rows[i]) for a, (i, _) in zip(kept, later))
                results[path]["second and later questions: kept state, fresh context, rows"] = [
                    round(100 * same / len(later), 1), round(100 * fresh / len(later), 1), len(later)]
    if args.lm_text:
        results["bits per byte"] = round(bits_per_byte(model, tokenizer, lines_of(args.lm_text), dtype), 4)
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (out / "summary.json").write_text(text, encoding="utf-8")
    print(re.sub(r"\n\s+(?=[\d\]])", " ", text))


if __name__ == "__main__":
    main()
