"""Sentences with typed parts (who, where, when, what, why, how many, whom), asked for one part each.

An S line of grammar/clauses.txt or passages/<lang>.txt is a sentence in the language's order, or several about the same names,
parted by " ; ". `<w {person}~ ne>` is a part of type w: the answer is what stands before "~", and the question word takes the
place of all of it. `<o=which_river ...>` names its own question words. The alternatives (a|b) of the verb, and (=a|b)
anywhere, are drawn anew for the question, so it may use another one than the sentence. A line `Q2 text` after an S line is
a free wording that asks for its second typed part.
"""
import re

from ask import spoken
from grammar import CLAUSES, ENTITY, Draw, wording_held_out
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
    """Parts whose alternatives mean the same: marked so, or after the last typed part, or in English right after a part or name."""
    choices = [i for i, part in enumerate(line) if part[0] == "alt"]
    spans = [i for i, part in enumerate(line) if part[0] == "span"]
    same = {i for i, part in enumerate(line) if part[0] == "same"}
    if lang == "en":
        named = [i for i, part in enumerate(line) if part[0] == "slot" or (part[0] == "span" and part[1][0] != "n")]
        return same | {i for i in choices if named and named[0] < i and line[i - 2][0] != "span" or i - 2 in named}
    return same | {i for i in choices[-1:] if i > max(spans, default=0)}


def typed(line):
    """Indices of the parts that can be asked for."""
    return [i for i, part in enumerate(line) if part[0] == "span" and not part[1].startswith("c")]


class Sentence:
    """One drawn sentence: `parts` = [(kind, text, answer)], kind "" for plain words, "{" for a topic, or a type.

    `numbers`: part index -> its number in the passage, where typed parts are counted from `first` on."""

    def __init__(self, draw, line, first=1):
        rng = draw.rng
        self.draw, self.line, self.parts = draw, reordered(rng, line) if rng.random() < 0.4 else line, []
        order = {id(line[i]): first + n for n, i in enumerate(typed(line))}
        line = self.line
        self.numbers = {i: order[id(line[i])] for i in typed(line)}
        self.verbs = verbs(draw.lang, line)
        self.absent = {i for i in self.numbers if len(self.numbers) > 1 and rng.random() < 0.25}
        if self.numbers and len(self.absent) == len(self.numbers):
            self.absent.pop()
        for part in line:
            if isinstance(part, str):
                self.parts.append(("", part, None))
            elif part[0] == "slot":
                self.parts.append(("{", draw.slot(part[1]), None))
            elif part[0] != "span":
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
        """The sentence with part `asked` replaced by a question word (of another `kind`); `swap` is (slot, its other name)."""
        draw, rng = self.draw, self.draw.rng
        own, _, words = self.parts[asked][0].partition("=")
        ask = rng.choice(words.replace("_", " ").split("/") if words else CLAUSES[draw.lang].asks[kind or own])
        # Now and then a verb that nothing is known of: the question word alone must then find the part.
        strange = len(self.parts) - 1 if own in "wptym" and rng.random() < 0.15 else None
        out = []
        for i, (kind, text, _) in enumerate(self.parts):
            if i == asked:
                out.append(ask)
            elif kind == "{" and swap and swap[0] == self.line[i][1]:
                out.append(swap[1])
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


class Drawn:
    """A passage with its names filled in. Sentences after the first may be left out: what they tell is not given then."""

    def __init__(self, draw, passage):
        self.draw, self.passage, self.sentences, first = draw, passage, [], 1
        for line in passage.sentences:
            self.sentences.append(Sentence(draw, line, first))
            first += len(typed(line))
        self.left_out = {i for i in range(1, len(self.sentences)) if draw.rng.random() < 0.22}

    def text(self):
        return " ".join(s.text() for i, s in enumerate(self.sentences) if i not in self.left_out)

    def wording(self, number, split):
        """A free wording for the typed part `number`, its slots not filled; None when there is none."""
        found = self.passage.questions.get(number)
        if not found:
            return None
        wording = self.draw.flat(self.draw.rng.choice(found), lambda name: "{" + name + "}")
        return wording if wording_held_out(self.draw.lang, wording) == (split == "dev") else None

    def filled(self, wording, swap=None):
        """The wording with the passage's names; `swap` is (slot, its other name)."""
        draw = self.draw

        def name(match):
            slot, kind = match.group(1), match.group(1).rstrip("0123456789")
            if swap and slot == swap[0]:
                return swap[1]
            free = wording[match.end():match.end() + 1] in ("", " ", ",")    # no case ending of the wording's own
            return spoken(draw.rng, draw.lang, draw.fillers[slot]) if free and kind in ENTITY else draw.fillers[slot]

        return re.sub(r"\{(\w+)\}", name, wording)

    def other(self, slot):
        """(slot, another name for it)"""
        return slot, self.draw.filler(slot.rstrip("0123456789"))

    def ask(self, context, split):
        """(kind, question, answer) or None."""
        rng, none = self.draw.rng, NOTGIVEN[self.draw.lang]
        place = rng.randrange(len(self.sentences))
        sentence = self.sentences[place]
        if not sentence.numbers:
            return None
        i, swap, kind, x = rng.choice(list(sentence.numbers)), None, None, rng.random()
        answer, gone = sentence.parts[i][2], place in self.left_out or i in sentence.absent
        label = sentence.parts[i][0][0]
        if gone:
            if x < 0.6:
                return None
            answer = none
        wording = self.wording(sentence.numbers[i], split) if split == "dev" or rng.random() < 0.65 else None
        if split == "dev" and not wording:
            return None
        if wording:
            slots = [s for s in re.findall(r"\{(\w+)\}", wording) if s.rstrip("0123456789") in ENTITY]
            if not gone and x < 0.08 and slots:
                swap, answer, label = self.other(rng.choice(slots)), none, "none/name"
            question = self.filled(wording, swap)
        else:
            topics = [part[1] for part in sentence.line if part[0] == "slot"]
            if gone and place in self.left_out and not topics:
                return None     # "When is it?" of a sentence that is not there may be answered by another
            if not gone and x < 0.05 and topics:
                swap, answer, label = self.other(rng.choice(topics)), none, "none/name"
            elif not gone and x < 0.5 and sentence.weekday(i):
                kind, answer = "d", sentence.weekday(i)
            question = sentence.question(i, swap, kind)
        if not answer or (answer != none and answer not in context) or (swap and swap[1] in context):
            return None
        return "clause/" + ("none" if answer == none and label != "none/name" else label), question, answer


def sample(rng, lang, count, questions, texts, split="train"):
    """([text of a passage], [(kind, question, answer)]); split "dev" asks in held-out free wordings only."""
    drawn = [Drawn(Draw(rng, lang, texts, split), passage) for passage in rng.sample(CLAUSES[lang].passages, count)]
    parts, out, asked = [d.text() for d in drawn], [], set()
    context = " ".join(parts)
    for _ in range(questions * 3):
        if len(out) == questions:
            break
        made = rng.choice(drawn).ask(context, split)
        if made and made[1] not in asked:
            asked.add(made[1])
            out.append(made)
    digits = NATIVE_DIGITS[lang] if lang in NATIVE_DIGITS and rng.random() < 0.3 else {}
    return [p.translate(digits) for p in parts], [(k, q.translate(digits), a.translate(digits)) for k, q, a in out]
