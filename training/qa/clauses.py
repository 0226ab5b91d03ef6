"""Single sentences with typed parts (who, where, when, what, why, how many, whom), asked for one part each.

A line of grammar/clauses.txt is a sentence in the language's order. `<w {person}~ ne>` is a part of type w: the answer is
what stands before "~", and the question word takes the place of all of it. `<o=which_river ...>` names its own question
words. The alternatives (a|b) of the verb are drawn anew for the question, so it may use another one than the sentence.
"""
from ask import spoken
from grammar import CLAUSES, Draw
from names import load_names
from records_wording import NOTGIVEN, STOP
from values import NATIVE_DIGITS


WEEKDAYS = {lang: table["days"] for lang, table in load_names().items()}


def reordered(rng, line):
    """The line with one run of neighbouring typed parts in another order: word order is free before the verb."""
    spans = [i for i, part in enumerate(line) if part[0] == "span"]
    run = spans[:1]
    for i in spans[1:]:
        if line[run[-1] + 1:i] != [" "]:
            break
        run.append(i)
    moved = dict(zip(run, rng.sample(run, len(run))))
    return [line[moved.get(i, i)] for i in range(len(line))]


def verbs(lang, line):
    """Parts whose alternatives mean the same: after the last typed part, or in English right after a part or name."""
    choices = [i for i, part in enumerate(line) if part[0] == "alt"]
    spans = [i for i, part in enumerate(line) if part[0] == "span"]
    if lang == "en":
        named = [i for i, part in enumerate(line) if part[0] == "slot" or (part[0] == "span" and part[1][0] != "n")]
        return {i for i in choices if named and named[0] < i and line[i - 2][0] != "span" or i - 2 in named}
    return {i for i in choices[-1:] if i > max(spans)}


class Sentence:
    """One drawn sentence: `parts` = [(kind, text, answer)], kind "" for plain words, "{" for a topic, or a type."""

    def __init__(self, draw, line):
        rng = draw.rng
        self.draw, self.line, self.parts = draw, reordered(rng, line) if rng.random() < 0.4 else line, []
        line = self.line
        typed = [i for i, part in enumerate(line) if part[0] == "span" and not part[1].startswith("c")]
        self.verbs = verbs(draw.lang, line)
        self.absent = {i for i in typed if len(typed) > 1 and rng.random() < 0.25}
        if len(self.absent) == len(typed):
            self.absent.pop()
        for part in line:
            if isinstance(part, str):
                self.parts.append(("", part, None))
            elif part[0] == "slot":
                self.parts.append(("{", draw.slot(part[1]), None))
            elif part[0] == "alt":
                self.parts.append(("", draw.flat(rng.choice(part[1]), draw.slot), None))
            else:
                text = draw.flat(rng.choice(part[2]), draw.slot)
                self.parts.append((part[1], text.replace("~", ""), text.split("~")[0].strip()))

    def text(self):
        words = " ".join("".join("" if i in self.absent else p[1] for i, p in enumerate(self.parts)).split())
        if self.draw.lang == "en":
            words = words[0].upper() + words[1:]
        return words + STOP.get(self.draw.lang, ".")

    def weekday(self, i):
        """The weekday named in part i, if it is a time with more than that."""
        kind, text, _ = self.parts[i]
        return next((d for d in WEEKDAYS[self.draw.lang] if kind == "t" and d in text and d != text), None)

    def question(self, asked, swap=None, kind=None):
        """The sentence with part `asked` replaced by a question word (of another `kind`); part `swap` gets another name."""
        draw, rng = self.draw, self.draw.rng
        own, _, words = self.parts[asked][0].partition("=")
        ask = rng.choice(words.replace("_", " ").split("/") if words else CLAUSES[draw.lang].asks[kind or own])
        # Now and then a verb that nothing is known of: the question word alone must then find the part.
        strange = len(self.parts) - 1 if own in "wptym" and rng.random() < 0.15 else None
        out = []
        for i, (kind, text, _) in enumerate(self.parts):
            if i == asked:
                out.append(ask)
            elif i == swap:
                out.append(draw.filler(self.line[i][1].rstrip("0123456789")))
            elif kind == "{":
                out.append(spoken(rng, draw.lang, text))
            elif kind and kind[0] != "c":
                out.append(text if i not in self.absent and rng.random() < 0.4 else " ")
            elif i == strange:
                out.append(" " + rng.choice(draw.text[draw.lang].common))
            else:
                again = i in self.verbs and rng.random() < 0.6
                out.append(draw.flat(rng.choice(self.line[i][1]), draw.slot) if again else text)
        if draw.lang == "en" or rng.random() < 0.12:
            out = [ask + " "] + [p for i, p in enumerate(out) if i != asked]
        return " ".join("".join(out).split())


def sample(rng, lang, count, questions, texts):
    """([sentence], [(kind, question, answer)])"""
    lines = rng.sample(CLAUSES[lang].lines, count)
    drawn = [Sentence(Draw(rng, lang, texts), line) for line in lines]
    parts, out, asked = [s.text() for s in drawn], [], set()
    context = " ".join(parts)
    for _ in range(questions * 2):
        if len(out) == questions:
            break
        sentence = rng.choice(drawn)
        typed = [i for i, (kind, _, _) in enumerate(sentence.parts) if kind and kind != "{" and kind[0] != "c"]
        topics = [i for i, (kind, _, _) in enumerate(sentence.parts) if kind == "{"]
        i, swap, kind, x = rng.choice(typed), None, None, rng.random()
        answer = sentence.parts[i][2]
        if i in sentence.absent:
            if x < 0.7:
                continue
            answer = NOTGIVEN[lang]
        elif x < 0.05 and topics:
            swap, answer = rng.choice(topics), NOTGIVEN[lang]
        elif x < 0.5 and sentence.weekday(i):
            kind, answer = "d", sentence.weekday(i)
        question = sentence.question(i, swap, kind)
        if question in asked or not answer or (answer != NOTGIVEN[lang] and answer not in context):
            continue
        asked.add(question)
        out.append((f"clause/{'none' if answer == NOTGIVEN[lang] else sentence.parts[i][0][0]}", question, answer))
    digits = NATIVE_DIGITS[lang] if lang in NATIVE_DIGITS and rng.random() < 0.3 else {}
    return [p.translate(digits) for p in parts], [(k, q.translate(digits), a.translate(digits)) for k, q, a in out]
