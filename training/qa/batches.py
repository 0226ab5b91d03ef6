"""Batches of packed rows, made in worker processes while training goes on."""
import multiprocessing as mp
import random

import numpy as np

from tokenizer import A, BOS, CTX, EOS, Q

ROW = 1025            # positions of a row, one more than the model reads at once
TEXT, ANSWER = 1, 2   # loss classes; 0 is not trained


def pieces(context, questions):
    """The texts of a document, in the order `tokens` wants their ids."""
    return [context] + [t for _, q, a in questions for t in (q, a)]


def tokens(ids, has_questions):
    """(token ids, loss classes) of one document, cut to a row; None when not even one question fits."""
    context, rest = ids[0], ids[1:]
    if not has_questions:
        document = [BOS] + context[:ROW - 2] + [EOS]
        return document, [0] + [TEXT] * (len(document) - 1)
    document, classes = [BOS, CTX] + context, [0] + [TEXT] * (len(context) + 1)
    asked = False
    for question, answer in zip(rest[::2], rest[1::2]):
        if len(document) + len(question) + len(answer) + 3 > ROW:
            break
        document += [Q] + question + [A] + answer + [EOS]
        classes += [TEXT] * (len(question) + 2) + [ANSWER] * (len(answer) + 1)
        asked = True
    return (document, classes) if asked else None


class Packer:
    """Puts documents into rows, best fit first, with a bounded number of open rows."""

    def __init__(self, open_rows=32):
        self.open_rows, self.rows, self.full = open_rows, [], []

    def add(self, document, classes):
        fitting = [row for row in self.rows if len(row[0]) + len(document) <= ROW]
        row = max(fitting, key=lambda row: len(row[0]), default=None)
        if row is None:
            row = ([], [])
            self.rows.append(row)
        row[0].extend(document)
        row[1].extend(classes)
        if len(row[0]) > ROW - 24:
            self.close(row)
        elif len(self.rows) > self.open_rows:
            self.close(max(self.rows, key=lambda row: len(row[0])))

    def close(self, row):
        self.rows = [r for r in self.rows if r is not row]
        self.full.append(row)


def work(queue, tokenizer_file, seed, batch, mix):
    """One worker: documents -> queue of (ids uint16 [batch,ROW], classes uint8 [batch,ROW])."""
    from tokenizers import Tokenizer

    import documents
    from text import load_text

    tokenizer, texts, rng, packer = Tokenizer.from_file(tokenizer_file), load_text(), random.Random(seed), Packer()
    while True:
        drawn = [documents.draw(rng, texts, mix=mix) for _ in range(256)]
        parts = [pieces(context, questions) for _, context, questions in drawn]
        plain = [bool(questions) for _, _, questions in drawn]
        encoded = iter(tokenizer.encode_batch([t for p in parts for t in p], add_special_tokens=False))
        for part, has_questions in zip(parts, plain):
            made = tokens([next(encoded).ids for _ in part], has_questions)
            if made:
                packer.add(*made)
        rng.shuffle(packer.full)
        while len(packer.full) >= batch:
            ids, classes = np.zeros((batch, ROW), np.uint16), np.zeros((batch, ROW), np.uint8)
            for i, (document, kinds) in enumerate(packer.full[:batch]):
                ids[i, :len(document)], classes[i, :len(kinds)] = document, kinds
            del packer.full[:batch]
            queue.put((ids, classes))


class Batches:
    """Iterates over batches made by `workers` processes."""

    def __init__(self, tokenizer_file, seed, batch, workers, mix):
        self.queue = mp.Queue(maxsize=4 * workers)
        self.workers = [mp.Process(target=work, args=(self.queue, tokenizer_file, seed * 1000 + i, batch, mix), daemon=True)
                        for i in range(workers)]
        for w in self.workers:
            w.start()

    def __iter__(self):
        while True:
            yield self.queue.get()

    def close(self):
        for w in self.workers:
            w.terminate()
