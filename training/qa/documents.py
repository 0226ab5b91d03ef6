"""Training documents: a context with its questions, drawn from records, scenes and natural prose."""
import unicodedata

import clauses
import cloze
import grammar
import records
from ask import dressed
from records_wording import LANGS
from text import sentences

# Share of documents per source; scenes are short, so they hold fewer positions than documents.
MIX = {"records": 0.27, "scene": 0.26, "clause": 0.25, "cloze": 0.18, "prose": 0.04}


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


def scene_document(rng, lang, texts):
    """One to three scenes, with or without natural sentences around them."""
    count = rng.choice((1, 1, 1, 1, 2, 3))
    per_scene = rng.randint(1, 4) if count == 1 else rng.randint(1, 3)
    parts, questions = [], []
    for _ in range(count):
        context, asked = grammar.sample(rng, lang, per_scene, texts)
        parts.append(context)
        questions += [(k, q, a) for k, q, a in asked]
    if count > 1:
        # A question without a name, asked of several scenes at once, may have two answers: keep the named ones.
        questions = [(k, q, a) for k, q, a in questions if sum(p.count(a) for p in parts) <= 1]
        shared = [w for p in parts for w in set(p.split())]
        questions = [(k, q, a) for k, q, a in questions
                     if k.endswith("none") is False and any(shared.count(w) == 1 for w in q.split() if len(w) > 3)]
    if rng.random() < 0.3:
        scatter(rng, parts, lang, texts)
    return rng.choice((" ", " ", "\n")).join(parts), questions


def draw(rng, texts, lang=None, source=None, mix=MIX):
    """(language, context, [(kind, question, answer)]); no questions for plain prose."""
    lang = lang or rng.choice(LANGS)
    source = source or rng.choices(list(mix), mix.values())[0]
    if source == "records":
        records_at_most = rng.choice((1, 2, 3, 4, 5, 6, 6, 6, 6, 12))
        context, questions = records.sample(rng, lang, "train", records_at_most, rng.choice((1, 2, 3, 4, 5)), texts)
    elif source in ("scene", "clause"):
        context, questions = (scene_document if source == "scene" else clause_document)(rng, lang, texts)
        questions = [(k, dressed(rng, lang, q), a) for k, q, a in questions]
    elif source == "cloze":
        context, questions = cloze.sample(rng, lang, rng.randint(1, 5), texts, long_length(rng, 120, 2200))
        questions = [(k, dressed(rng, lang, q), a) for k, q, a in questions]
    else:
        context, questions = " ".join(cloze.passage(rng, texts[lang], 1500)), []
    rng.shuffle(questions)
    nfc = lambda s: unicodedata.normalize("NFC", s)
    return lang, nfc(context), [(k, nfc(q), nfc(a)) for k, q, a in questions]
