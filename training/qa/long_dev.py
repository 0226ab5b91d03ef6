"""Makes long-dev.jsonl: questions about contexts of 700 to 1,000 tokens, for measuring only.

    python long_dev.py long-dev.jsonl

Records of the eval split, scenes and passages in held-out wordings with names of the eval split, and paragraphs of the
natural text that is kept out of training, one after another.
"""
import json
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer

import documents
from records_wording import LANGS, NOTGIVEN
from text import load_text

HERE = Path(__file__).parent
TOKENS = (700, 1000)
ROWS, CLOZE = 11, 2   # of a language, at most 4 of a context; of these from natural text
SEED = 1


def main():
    tokenizer, texts, rng = Tokenizer.from_file(str(HERE / "tokenizer.json")), load_text("dev"), random.Random(SEED)
    with open(sys.argv[1], "w", encoding="utf-8") as f:
        for lang in LANGS:
            rows, blanks = [], 0
            while len(rows) < ROWS:
                context, questions = documents.draw(rng, texts, lang, "long", split="dev")[1:]
                length = len(tokenizer.encode(context, add_special_tokens=False).ids)
                if not TOKENS[0] <= length <= TOKENS[1] or len(questions) < 2:
                    continue
                cloze = [q for q in questions if q[0].startswith("cloze")]
                questions = [q for q in questions if q not in cloze[max(0, CLOZE - blanks):]][:4]
                blanks += sum(q in cloze for q in questions)
                rows += [{"lang": lang, "kind": "none" if answer == NOTGIVEN[lang] else kind.split("/")[0], "context": context,
                          "question": question, "answer": answer} for kind, question, answer in questions]
            for row in rows[:ROWS]:
                f.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
