"""Random names and numbers, with the train/eval/test split by hash that eval.jsonl was made with."""
import unicodedata
import zlib

SPLIT_CLASSES = {"train": range(4, 20), "eval": range(0, 2), "test": range(2, 4)}

_ZERO = {"hi": 0x966, "mr": 0x966, "ne": 0x966, "bn": 0x9E6, "as": 0x9E6, "ta": 0xBE6, "te": 0xC66, "gu": 0xAE6,
         "kn": 0xCE6, "ml": 0xD66, "pa": 0xA66, "or": 0xB66, "ur": 0x6F0}
NATIVE_DIGITS = {lang: {ord("0") + d: zero + d for d in range(10)} for lang, zero in _ZERO.items()}

_CONSONANTS = [0x15, 0x16, 0x17, 0x18, 0x1A, 0x1B, 0x1C, 0x1D, 0x1F, 0x20, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x28,
               0x2A, 0x2B, 0x2C, 0x2D, 0x2E, 0x2F, 0x30, 0x32, 0x35, 0x36, 0x38, 0x39]
_VOWELS = [0, 0, 0x3E, 0x3E, 0x3F, 0x40, 0x41, 0x42, 0x47, 0x4B]


def _brahmic(base, drop=()):
    consonants = [chr(base + c) for c in _CONSONANTS if c not in drop]
    return consonants, [chr(base + v) if v else "" for v in _VOWELS], [chr(base + f) for f in (0x28, 0x30, 0x32)]


SYLLABLES = {
    "hi": _brahmic(0x900), "mr": _brahmic(0x900), "ne": _brahmic(0x900), "bn": _brahmic(0x980, (0x35,)),
    "gu": _brahmic(0xA80), "pa": _brahmic(0xA00, (0x36, 0x37)), "or": _brahmic(0xB00, (0x35,)),
    "te": _brahmic(0xC00), "kn": _brahmic(0xC80), "ml": _brahmic(0xD00),
    "ta": ([chr(0xB80 + c) for c in (0x15, 0x1A, 0x1F, 0x24, 0x28, 0x2A, 0x2E, 0x2F, 0x30, 0x32, 0x35, 0x33, 0x34, 0x1C)],
           ["", "", "\u0BBE", "\u0BBE", "\u0BBF", "\u0BC0", "\u0BC1", "\u0BC2", "\u0BC7", "\u0BCB"], ["ன்", "ர்", "ல்", "ள்"]),
    "ur": (list("بپتجچحخدرزسشصغفقکگلمنوہیٹڈ"), ["ا", "ا", "و", "ی", "ی", "", "", ""], ["ن", "ر", "ل", "م"]),
    "en": ("b ch d f g h j k l m n p r s sh t v w y z th kr br".split(), "a a e i o u ai ee".split(), "n r l m sh".split()),
}
_bn = SYLLABLES["bn"]
SYLLABLES["as"] = ([("ৰ" if c == "র" else c) for c in _bn[0]] + ["ৱ"], _bn[1], ["ন", "ৰ", "ল"])


def in_split(key, split):
    return zlib.crc32(key.encode()) % 20 in SPLIT_CLASSES[split]


def invented_name(rng, lang, split, low=2, high=4):
    """A name of `low`..`high` random syllables that belongs to `split`."""
    consonants, vowels, finals = SYLLABLES[lang]
    while True:
        name = "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(rng.randint(low, high)))
        if rng.random() < 0.35:
            name += rng.choice(finals)
        name = unicodedata.normalize("NFC", name.capitalize() if lang == "en" else name)
        if in_split("n" + name, split):
            return name


def number(rng, low, high, split, decimals=0):
    """A number of `split` as text; `low` and `high` count the last decimal place."""
    for _ in range(400):
        v = rng.randint(low, high)
        text = f"{v / 10 ** decimals:.{decimals}f}" if decimals else str(v)
        if in_split("#" + text, split):
            break
    return text


def indian_grouping(digits):
    """1234567 -> 12,34,567"""
    head, tail = digits[:-3], digits[-3:]
    parts = []
    while len(head) > 2:
        parts.insert(0, head[-2:])
        head = head[:-2]
    return ",".join(([head] if head else []) + parts + [tail])
