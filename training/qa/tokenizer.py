"""Trains the tokenizer: byte-fallback BPE of 16,384 ids with the prompt format's special tokens first.

    python tokenizer.py tokenizer.json
"""
import json
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import documents
from names import KINDS, load_names
from records_wording import LANGS
from text import load_text

VOCABULARY = 16384
SPECIAL = ["<pad>", "<bos>", "<eos>", "<ctx>", "<q>", "<a>"]
PAD, BOS, EOS, CTX, Q, A = range(6)
# Letters with their marks and joiners stay together; every digit, sign and line break stands alone.
PIECES = r"▁?[\p{L}\p{M}\x{200c}\x{200d}]+|\p{N}|▁?[^▁\s\p{L}\p{M}\p{N}\x{200c}\x{200d}]|▁|\s"
CHARS_PER_LANGUAGE = 1_200_000


def corpus(seed=7):
    """Natural text (the same amount per language), names, and documents of every source."""
    rng, texts, names = random.Random(seed), load_text(), load_names()
    for lang in LANGS:
        size = 0
        while size < CHARS_PER_LANGUAGE:
            for line in texts[lang].passage(rng, 2000):
                yield line
                size += len(line)
        for _ in range(2500):
            _, context, questions = documents.draw(rng, texts, lang, rng.choice(("records", "scene")))
            yield context
            for _, question, answer in questions:
                yield question
                yield answer
        for kind in KINDS:
            for name in names[lang][kind]["train"]:
                yield from [name] * 6


def train():
    tokenizer = Tokenizer(models.BPE(unk_token=None, byte_fallback=True, fuse_unk=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=False),
        pre_tokenizers.Split(Regex(PIECES), "isolated"),
    ])
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=VOCABULARY - 256 - len(SPECIAL), min_frequency=3, special_tokens=[], limit_alphabet=900, show_progress=False))

    # Ids: special tokens, the 256 bytes, then the learned pieces in the order of their merges.
    spec = json.loads(tokenizer.to_str())
    learned = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].get)
    ids = {}
    for piece in SPECIAL + [f"<0x{b:02X}>" for b in range(256)] + learned:
        ids.setdefault(piece, len(ids))
    spec["model"]["vocab"] = ids
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def prompt(context, question):
    return f"<bos><ctx>{context}<q>{question}<a>"


if __name__ == "__main__":
    trained = train()
    trained.save(sys.argv[1])
    print("vocabulary", trained.get_vocab_size())
