"""Training documents: a context with its questions, drawn from records, scenes and natural prose."""
import unicodedata

import clauses
import cloze
import grammar
import records
from ask import dressed
from records_wording import LANGS, NOTGIVEN
from text import sentences

# Share of documents per source; a long one holds as many positions as six others.
MIX = {"records": 0.14, "scene": 0.44, "clause": 0.19, "cloze": 0.14, "prose": 0.04, "long": 0.05}
LONG = (1000, 2300)    # characters of a long context: about 400 to 950 tokens


def long_length(rng, low, high):
    """Mostly short, sometimes long: `low`..`high` characters, log-uniform."""
    return int(low * (high / low) ** rng.random())


def scatter(rng, parts, lang, texts):
    """Natural sentences between the parts of a context."""
    for s in sentences(" ".join(texts[lang].passage(rng, long_length(rng, 60, 900)))):
        parts.insert(rng.randint(0, len(parts)), s)


def clause_document(rng, lang, texts):
    """One to five clauses, with or without natural sentences between them."""
    parts, questions = clauses.sample(rng, lang, rng.choice((1, 2, 2, 3, 3, 4, 5)), rng.randint(1, 5), texts)
    if rng.random() < 0.25:
        scatter(rng, parts, lang, texts)
    return " ".join(parts), questions


def named(questions, context):
    """Those of [(part of the context, kind, question, answer)] that can mean no other part, and so have one answer."""
    return [(part, k, q, a) for part, k, q, a in questions
            if "none" not in k.split("/") and context.count(a) == 1 and belongs(q, part, context)]


def scene_document(rng, lang, texts):
    """One to three scenes, with or without natural sentences around them."""
    count = rng.choice((1, 1, 1, 1, 2, 3))
    per_scene = rng.choice((1, 2, 3, 4, 6, 8)) if count == 1 else rng.randint(1, 4)
    parts, questions = [], []
    for _ in range(count):
        context, asked = grammar.sample(rng, lang, per_scene, texts)
        parts.append(context)
        questions += [(context, *a) for a in asked]
    if count > 1:
        questions = named(questions, " ".join(parts))
    if rng.random() < 0.3:
        scatter(rng, parts, lang, texts)
    return rng.choice((" ", " ", "\n")).join(parts), [asked for _, *asked in questions]


def belongs(question, part, context):
    """Does a word of the question stand in this part of the context and nowhere else?"""
    return any(len(w) > 3 and w in part and context.count(w) == part.count(w) for w in question.split())


def long_document(rng, lang, texts, split="train"):
    """Records, scenes, passages and natural paragraphs one after another, with questions about any of them."""
    size, parts, questions = rng.uniform(*LONG), [], []
    while sum(map(len, parts)) < size:
        source = rng.choices(("records", "scene", "clause", "cloze"), (0.2, 0.3, 0.25, 0.25))[0]
        if source == "records":
            context, asked = records.sample(rng, lang, "train" if split == "train" else "eval", 5, 2, texts, alone=False)
        elif source == "scene":
            context, asked = grammar.sample(rng, lang, 2, texts, split)
        elif source == "clause":
            passages, asked = clauses.sample(rng, lang, rng.choice((1, 2, 3)), 2, texts, split)
            context = " ".join(passages)
        else:
            context, asked = cloze.sample(rng, lang, 2, texts, long_length(rng, 200, 900))
        parts.append(context)
        questions += [(len(parts) - 1, source, *a) for a in asked]
    context = rng.choice(("\n", "\n", "\n\n", " ")).join(parts)
    kept = []
    for i, source, kind, question, answer in questions:
        if answer != NOTGIVEN[lang]:
            keep = belongs(question, parts[i], context)
        elif source == "records":
            keep = True     # names the record
        else:
            named = kind.endswith("none/name") or source == "cloze"
            keep = named and any(len(w) > 3 and w not in context for w in question.split())
        if keep:
            kept.append((kind, question if source == "records" else dressed(rng, lang, question), answer))
    # Near misses: the records of another table like those above, asked for what it tells.
    if rng.random() < 0.5:
        _, asked = records.sample(rng, lang, "train" if split == "train" else "eval", 3, 2, texts, alone=False)
        kept += [(kind.replace("/value/", "/none/"), question, NOTGIVEN[lang]) for kind, question, _ in asked
                 if "/value/" in kind and any(len(w) > 3 and w not in context for w in question.split())]
    rng.shuffle(kept)
    return context, kept[:rng.randint(2, 5)]


def document(rng, lang, texts, source, split):
    """(context, [(kind, question, answer)]) from a source; now and then without a question, prose always."""
    if source == "prose":
        return " ".join(cloze.passage(rng, texts[lang], 1500)), []
    if source == "long":
        return long_document(rng, lang, texts, split)
    if source == "records":
        records_at_most = rng.choice((1, 2, 3, 4, 5, 6, 6, 6, 6, 12))
        return records.sample(rng, lang, "train", records_at_most, rng.choice((1, 2, 3, 4, 5)), texts)
    if source == "cloze":
        context, questions = cloze.sample(rng, lang, rng.randint(1, 8), texts, long_length(rng, rng.choice((120, 400)), 2200))
    else:
        context, questions = (scene_document if source == "scene" else clause_document)(rng, lang, texts)
    return context, [(k, dressed(rng, lang, q), a) for k, q, a in questions]


def draw(rng, texts, lang=None, source=None, mix=MIX, split="train"):
    """(language, context, [(kind, question, answer)]); no questions for plain prose. Split "dev" is for the source "long"."""
    lang = lang or rng.choice(LANGS)
    source = source or rng.choices(list(mix), mix.values())[0]
    context, questions = document(rng, lang, texts, source, split)
    while not questions and source != "prose":
        context, questions = document(rng, lang, texts, source, split)
    rng.shuffle(questions)
    nfc = lambda s: unicodedata.normalize("NFC", s)
    return lang, nfc(context), [(k, nfc(q), nfc(a)) for k, q, a in questions]
