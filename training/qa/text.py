"""Natural text of data/indic-text.tar.xz: lines, sentences, word frequencies, related word forms."""
import io
import re
import tarfile
import unicodedata
import zlib
from collections import Counter, defaultdict
from pathlib import Path

ARCHIVE = Path(__file__).parent / "data" / "indic-text.tar.xz"
EDGE = ".,;:!?।۔॥()[]\"“”'‘’…–—-،؛؟*"
SENTENCE_END = re.compile(r"(?<=[।۔!?؟])\s+|(?<=[^\d\s][^\s.]\.)\s+")
# Interface messages and help pages teach little prose: they are drawn this much less often. Encyclopaedic text more often.
SOURCE_WEIGHT = {"wiki-joshua": 2.5, "tico19": 2.5, "wiki-flores": 2.0, "wiki-cx": 2.5, "cmo-kerala": 1.5, "commonvoice": 0.5,
                 "chromium-ui": 0.15, "android-ui": 0.15, "lo-ui": 0.1, "lo-help": 0.3, "gnome-help": 0.3, "mozilla.org": 0.5}


def strip_edge(word):
    return word.strip(EDGE)


def sentences(line):
    return [s for s in SENTENCE_END.split(line) if s]


class Text:
    """One language: `blocks` = runs of neighbouring lines, `weights` by source, word counts, the commonest words,
    word families."""

    def __init__(self, lines, sources, split="train"):
        self.blocks, self.weights = [], []
        for first, last, source in sources:
            for start in range(first - 1, last, 10):
                block = lines[start:min(start + 10, last)]
                held = zlib.crc32(block[0].encode()) % 50 == 0
                if held == (split == "dev"):
                    self.blocks.append(block)
                    self.weights.append(SOURCE_WEIGHT.get(source, 1.0) * sum(map(len, block)))
        total = 0.0
        self.cumulative = [total := total + w for w in self.weights]
        words = (strip_edge(w) for block in self.blocks for line in block for w in line.split())
        self.count = Counter(w for w in words if w)
        plain = [w for w in self.count if len(w) > 2 and not any(c.isdigit() for c in w)]
        self.rare = [w for w in plain if self.count[w] <= 8 and len(w) <= 14]
        self.common = [w for w in plain if self.count[w] > 20]
        self.stop = {w for w, _ in self.count.most_common(70)}
        family = defaultdict(list)
        for w in plain:
            if len(w) > 3:
                family[w[:max(3, (2 * len(w) + 2) // 3)]].append(w)
        self.family = {stem: ws for stem, ws in family.items() if len(ws) > 1}

    def passage(self, rng, max_chars):
        """Neighbouring lines of about `max_chars` characters at most (one line at least)."""
        block = rng.choices(self.blocks, cum_weights=self.cumulative)[0]
        i = rng.randrange(len(block))
        out = [block[i]]
        size = len(block[i])
        for line in block[i + 1:]:
            size += len(line)
            if size > max_chars:
                break
            out.append(line)
        return out

    def relative(self, rng, word):
        """Another form of the word (same first two thirds), or the word itself."""
        forms = self.family.get(word[:max(3, (2 * len(word) + 2) // 3)])
        return rng.choice(forms) if forms else word


def load_text(split="train", langs=None):
    """{language: Text}; `split` is train or dev (2 % of the blocks)."""
    files = {}
    with tarfile.open(ARCHIVE) as tar:
        for member in tar:
            files[Path(member.name).name] = tar.extractfile(member).read().decode()
    sources = defaultdict(list)
    for row in io.StringIO(files["sources.tsv"]):
        lang, first, last, source = row.rstrip("\n").split("\t")[:4]
        if first.isdigit():
            sources[lang].append((int(first), int(last), source))
    return {
        lang: Text(unicodedata.normalize("NFC", files[f"{lang}.txt"]).rstrip("\n").split("\n"), sources[lang], split)
        for lang in (langs or sources)
    }
