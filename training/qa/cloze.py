"""Questions made from natural prose: a span of a sentence is blanked by a question word that fits it.

The Indic languages ask in place ("X <where> is?"), so the sentence with the blank is close to a natural question.
Words are dropped, moved and changed in form so that matching the wording alone does not find the answer.
"""
from ask import FOLLOWING, MARKERS, PRECEDING, WORDS
from records_wording import NOTGIVEN
from text import sentences, strip_edge

BLANK = "____"
GENITIVES = {"का", "की", "के", "کا", "کی", "کے", "ਦਾ", "ਦੀ", "ਦੇ"}


def passage(rng, text, max_chars):
    """[sentence]: neighbouring lines, or lines of several places put together."""
    lines = text.passage(rng, max_chars)
    while sum(map(len, lines)) < max_chars * 0.5 and rng.random() < 0.8:
        lines = lines + text.passage(rng, max_chars - sum(map(len, lines)))
        if rng.random() < 0.3:
            rng.shuffle(lines)
    found = [s for line in lines for s in sentences(" ".join(line.split()))]
    kept, size = [], 0
    for s in found:
        size += len(s)
        if kept and size > max_chars:
            break
        kept.append(s)
    return kept


def numeric(word):
    return any(c.isdigit() for c in word)


def phrase_start(rng, words, last, text):
    """Where a phrase that ends with word `last` may begin: names and other rare words belong together, as do words with a genitive
    between them."""
    start = last
    while start > 0 and last - start < 4 and words[start - 1]:
        before = words[start - 1]
        if before in GENITIVES:
            if start < 2 or not words[start - 2] or rng.random() < 0.65:
                break
            start -= 2
        elif before in text.stop or rng.random() > (0.85 if text.count[before] <= 12 or numeric(before) else 0.3):
            break
        else:
            start -= 1
    return start


def choose_span(rng, lang, words, text):
    """(start, end, question words, end of what they replace), or None. `words` are cleaned of edge marks."""
    candidates = []
    n = len(words)
    for i, w in enumerate(words):
        if not w:
            continue
        if numeric(w):
            digits = "".join(c for c in w if c.isdigit())
            kind = "year" if len(digits) == 4 and digits == w else "clock" if ":" in w else "num"
            candidates.append((3.0, i, i + 1, WORDS[lang][kind], i + 1))
            if kind == "num" and i + 1 < n and words[i + 1] and not numeric(words[i + 1]):
                candidates.append((3.0, i, i + 2, WORDS[lang]["num"], i + 2))
                candidates.append((1.0, i, i + 2, [q + " " + words[i + 1] for q in WORDS[lang]["num"]], i + 2))
            continue
        rare = 2.0 if text.count[w] <= 8 else 1.0 if text.count[w] <= 40 else 0.0
        for marker, asks in MARKERS[lang]:
            if lang in FOLLOWING:
                if i > 0 and words[i - 1] and words[i:i + len(marker)] == marker:
                    candidates.append((2.0, phrase_start(rng, words, i - 1, text), i, asks, i + len(marker)))
            elif lang in PRECEDING:
                width = rng.choice((1, 1, 2, 2, 3))
                if w == marker[0] and i + width < n and all(words[i + 1:i + 1 + width]):
                    candidates.append((2.0, i + 1, i + 1 + width, asks, i + 1 + width))
            elif marker.search(w) and len(w) > 3:
                candidates.append((1.2 * max(rare, 0.2), phrase_start(rng, words, i, text), i + 1, asks, i + 1))
        width = rng.choice((1, 1, 1, 1, 2, 2, 3))
        if i + width <= n and all(words[i:i + width]):
            candidates.append((0.2 * rare, i, i + width, WORDS[lang]["what"], i + width))
            if width > 1 and lang not in PRECEDING:
                noun = words[i + width - 1]
                candidates.append((0.3 * rare, i, i + width, [w + " " + noun for w in WORDS[lang]["which"]], i + width))
    # An answer has a word that is not in everybody's mouth.
    telling = lambda span: any(text.count[w] <= 150 or numeric(w) for w in span)
    candidates = [c for c in candidates if c[0] > 0.0 and words[c[1]] not in text.stop and words[c[2] - 1] not in text.stop
                  and telling(words[c[1]:c[2]])]
    if not candidates:
        return None
    _, start, end, asks, stop = rng.choices(candidates, [c[0] for c in candidates])[0]
    return start, end, asks, stop


def wording(rng, lang, words, start, stop, ask, text):
    """A question from the sentence `words` with words[start:stop] asked for."""
    before = list(words[:start]) if lang not in PRECEDING or not start else list(words[:start - (rng.random() < 0.5)])
    after = list(words[stop:])
    near = rng.randint(3, 12)
    before, after = before[-near:], after[:near]
    others = [w for w in before + after if w]
    if len(others) < 2:
        return None
    anchors = sorted(others, key=lambda w: text.count[w] or 1)[:rng.choice((1, 2, 2, 3))]
    keep = 1.0 if rng.random() < 0.15 else rng.uniform(0.25, 0.95)
    # Words that the text does not have, as people ask.
    strange = rng.choice((0.0, 0.1, 0.2))

    def thin(side):
        kept = []
        for w in side:
            if w in anchors:
                kept.append(text.relative(rng, w) if rng.random() < 0.15 else w)
            elif w and rng.random() < keep:
                kept.append(rng.choice(text.common) if rng.random() < strange else text.relative(rng, w) if rng.random() < 0.25 else w)
        return kept

    before, after = thin(before), thin(after)
    if len(before) + len(after) < 2:
        return None
    x = rng.random()
    if lang in PRECEDING:
        parts = [ask] + before + after if x < 0.75 else before + [ask] + after
    elif x < 0.65:
        parts = before + [ask] + after
    elif x < 0.85:
        parts = before + after[:-1] + [ask] + after[-1:]
    elif x < 0.93:
        parts = before + after + [ask]
    else:
        parts = [ask] + before + after
    return " ".join(parts)


def sample(rng, lang, questions, texts, max_chars):
    """(context, [(kind, question, answer)]) from a passage of at most about `max_chars` characters."""
    text = texts[lang]
    found = passage(rng, text, max_chars)
    order = [s for s in found if 5 <= len(s.split()) <= 45]
    rng.shuffle(order)
    out, hidden = [], set()
    for sentence in order:
        if len(out) == questions:
            break
        raw = sentence.split()
        words = [strip_edge(w) for w in raw]
        span = choose_span(rng, lang, words, text)
        if span is None:
            continue
        start, end, asks, stop = span
        answer = strip_edge(" ".join(raw[start:end]))
        ask = BLANK if rng.random() < 0.06 else rng.choice(asks)
        question = wording(rng, lang, words, start, stop, ask, text)
        if not question or not answer or answer in question:
            continue
        x = rng.random()
        if x < 0.015 and len(found) > 3:
            hidden.add(sentence)
            answer = NOTGIVEN[lang]
        elif x < 0.05:
            parts = question.split()
            rarest = min((p for p in parts if p not in ask.split()), key=lambda p: text.count[p] or 1, default=ask)
            swap = rng.choice(text.rare)
            if swap in " ".join(found):
                continue
            question = " ".join(swap if p == rarest else p for p in parts)
            answer = NOTGIVEN[lang]
        out.append(("cloze/" + ("none" if answer == NOTGIVEN[lang] else "span"), question, answer))
    context = " ".join(s for s in found if s not in hidden)
    return context, [(k, q, a) for k, q, a in out if k.endswith("none") or a in context]
