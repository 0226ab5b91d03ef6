"""SQuAD or XQuAD JSON -> rows for `sarit eval qa`.

    python squad.py xquad.hi.json --lang hi -o xquad-hi.jsonl        # then: sarit eval qa xquad-hi.jsonl
    python squad.py dev-v2.0.json --lang en -o squad-en.jsonl

The first answer of a question is `answer`, other texts are `accept`; a question marked impossible is answered with the
language's words for "not given".
"""
import argparse
import json
from pathlib import Path

from records_wording import LANGS, NOTGIVEN


def rows(squad, lang):
    """Rows of the parsed JSON, in its order."""
    for article in squad["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                texts = list(dict.fromkeys(a["text"] for a in qa["answers"]))
                kind = "span"
                if qa.get("is_impossible"):
                    kind, texts = "none", [NOTGIVEN[lang]]
                if not texts:
                    raise ValueError(f"a question without an answer that is not marked impossible: {qa['question']}")
                yield {"lang": lang, "kind": kind, "context": paragraph["context"], "question": qa["question"],
                       "answer": texts[0], "accept": texts[1:]}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("file")
    p.add_argument("--lang", choices=LANGS, required=True)
    p.add_argument("-o", "--out", required=True)
    args = p.parse_args()
    with open(args.out, "w", encoding="utf-8") as f:
        for row in rows(json.loads(Path(args.file).read_text(encoding="utf-8")), args.lang):
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
