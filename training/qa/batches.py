"""Batches of packed rows, made in worker processes while training goes on, or recorded for several runs.

    python batches.py --out rows --count 2000 --batch 32       # then: train.py --rows rows --batch 32
"""
import argparse
import multiprocessing as mp
import os
import queue
import random
import signal
import time
import traceback
from pathlib import Path

import numpy as np

from tokenizer import A, BOS, CTX, EOS, Q

ROW = 1025            # positions of a row, one more than the model reads at once
TEXT, ANSWER = 1, 2   # loss classes; 0 is not trained
DROPPED = 0.25        # share of documents with dropout
DROPOUT = 0.1         # of a merge


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


def encoded(rng, tokenizer, dropping, drawn):
    """`tokens` of drawn documents. In a share of them contexts and questions are split into smaller pieces at random
    (BPE-dropout, Provilkov et al. 2020, arXiv 1910.13267), so that the model knows a word again in another form; answers never are."""
    def encode(tokenizer, texts):
        return [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]

    parts = [pieces(context, questions) for _, context, questions in drawn]
    ids = iter(encode(tokenizer, [t for part in parts for t in part]))
    for part, (_, _, questions) in zip(parts, drawn):
        own = [next(ids) for _ in part]
        if rng.random() < DROPPED:
            own[0], *own[1::2] = encode(dropping, [part[0], *part[1::2]])
        document = tokens(own, bool(questions))
        if document:
            yield document


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


def work(out, *args):
    """One worker: batches to the queue `out`, or what went wrong, as text, and no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)    # Ctrl-C reaches the reader too, which ends its workers
    try:
        for made in make(*args):
            out.put(made)
    except Exception:
        out.put(traceback.format_exc())


def make(tokenizer_file, seed, batch, mix):
    """Documents as (ids uint16 [batch,ROW], classes uint8 [batch,ROW]), without end."""
    from tokenizers import Tokenizer

    import documents
    from text import load_text

    tokenizer, dropping = Tokenizer.from_file(tokenizer_file), Tokenizer.from_file(tokenizer_file)
    dropping.model.dropout = DROPOUT
    texts, rng, packer = load_text(), random.Random(seed), Packer()
    while True:
        for document in encoded(rng, tokenizer, dropping, [documents.draw(rng, texts, mix=mix) for _ in range(256)]):
            packer.add(*document)
        rng.shuffle(packer.full)
        while len(packer.full) >= batch:
            ids, classes = np.zeros((batch, ROW), np.uint16), np.zeros((batch, ROW), np.uint8)
            for i, (document, kinds) in enumerate(packer.full[:batch]):
                ids[i, :len(document)], classes[i, :len(kinds)] = document, kinds
            del packer.full[:batch]
            yield ids, classes


class Batches:
    """Iterates over batches made by `workers` processes."""

    def __init__(self, tokenizer_file, seed, batch, workers, mix):
        self.queue = mp.Queue(maxsize=4 * workers)
        self.workers = [mp.Process(target=work, args=(self.queue, tokenizer_file, seed * 1000 + i, batch, mix), daemon=True)
                        for i in range(workers)]
        for w in self.workers:
            w.start()
        self.waited = 0.0    # seconds the reader had to wait

    def __iter__(self):
        while True:
            begun = time.time()
            batch = self.take()
            self.waited += time.time() - begun
            if isinstance(batch, str):
                raise RuntimeError(f"a worker has stopped:\n{batch}")
            yield batch

    def take(self):
        """What comes next from the queue. A worker that was killed says nothing there: its exit status does."""
        while True:
            killed = [w.exitcode for w in self.workers if w.exitcode]
            if killed:
                raise RuntimeError(f"a worker has stopped: exit status {killed[0]}")
            try:
                return self.queue.get(timeout=1)
            except queue.Empty:
                pass

    def ready(self):
        return self.queue.qsize()

    def close(self):
        for w in self.workers:
            w.terminate()


class Recorded:
    """Iterates over the batches of a file from batch `first` on, while `record` may still write it; then again.
    `read` of them were read before."""

    PATIENCE = 120    # seconds without a new batch after which the recording counts as dead

    def __init__(self, path, batch, first=0, read=0):
        self.path, self.batch, self.first = Path(path), batch, first
        self.size = batch * ROW * 3    # bytes
        self.index, self.waited = first + read, 0.0

    def count(self):
        return self.path.stat().st_size // self.size if self.path.exists() else 0

    def ready(self):
        """Batches that are there and not read."""
        return self.count() - self.index

    def __iter__(self):
        while True:
            begun = time.time()
            while self.ready() <= 0:
                if finished(self.path).exists() and self.ready() <= 0:
                    self.rewind()
                elif time.time() - begun > self.PATIENCE:
                    raise TimeoutError(f"no new batch in {self.path} for {self.PATIENCE} s")
                else:
                    time.sleep(0.02)
            self.waited += time.time() - begun
            with open(self.path, "rb") as f:
                f.seek(self.index * self.size)
                data = np.frombuffer(bytearray(f.read(self.size)), np.uint8)
            self.index += 1
            ids, classes = data[:self.size * 2 // 3].view(np.uint16), data[self.size * 2 // 3:]
            yield ids.reshape(self.batch, ROW), classes.reshape(self.batch, ROW)

    def rewind(self):
        """To where the reader is when the whole file is read again and again."""
        rows = self.count() - self.first
        if rows <= 0:
            raise ValueError(f"{self.path} holds {self.count()} batches, of which the first {self.first} are left out")
        self.index = self.first + (self.index - self.first) % rows

    def close(self):
        pass


def finished(path):
    """The file that says that a recording is whole."""
    return Path(f"{path}.whole")


def record(path, count, batches):
    """Writes `count` batches to `path`."""
    with open(path, "wb") as f:
        for _, (ids, classes) in zip(range(count), batches):
            f.write(ids.tobytes() + classes.tobytes())
            f.flush()
    finished(path).touch()


def main():
    import documents

    here = Path(__file__).parent
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True)
    p.add_argument("--count", type=int, required=True, help="batches")
    p.add_argument("--batch", type=int, default=64, help="rows of a batch")
    p.add_argument("--workers", type=int, default=14)
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    os.nice(5)
    batches = Batches(str(here / "tokenizer.json"), args.seed, args.batch, args.workers, documents.MIX)
    record(args.out, args.count, batches)
    batches.close()


if __name__ == "__main__":
    main()
