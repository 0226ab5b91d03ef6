r"""Scenes written by hand in grammar/<lang>.txt and notes/<lang>.txt: short natural contexts with free-worded questions.
clauses.txt and passages/<lang>.txt are drawn by clauses.py.

    !word a, b, c      a list of fillers ({word}); with "|" instead of ", " each item is a pattern itself
    [scene]            begins a scene
    C text             a context; sentences are parted by " || ", all but the first may be left out; \n is a line break
    label text         a question whose answer is the span `label`
    - text             a question that no context of the scene answers

Inside a text: (a|b) one of the alternatives, (=a|b) alternatives that mean the same, {word} a filler, <label text> the answer
span `label` (its text may hold alternatives too). A digit after a filler or label ties them: {item2} belongs to <p2 ...>, and a question about <p2>
fills its {item} from {item2}.
"""
import itertools
import re
import zlib
from pathlib import Path

from ask import spoken
from names import load_names
from records_wording import COMMA, LANGS, NOTGIVEN, STOP
from values import NATIVE_DIGITS, indian_grouping, invented_name, number

HERE = Path(__file__).parent
NAMES = load_names()
TOKEN = re.compile(r"\{(\w+)\}|<(\w+(?:=[^ <>]+)?) |([(|)>])|([^(){}<>|]+)")
# Labels that answer each other's question in part: none of them is "not given" when another one is there.
NEAR = {"when": {"day", "date", "time", "food"}, "food": {"when"}, "day": {"when", "date", "by"}, "date": {"when", "day", "by"},
        "time": {"when"}, "money": {"fee"}, "who": {"chief", "ride"}, "fee": {"money"}}
AND = {"hi": "और", "ur": "اور", "pa": "ਅਤੇ", "bn": "আর", "as": "আৰু", "or": "ଏବଂ", "mr": "आणि", "gu": "અને", "ne": "र",
       "ta": "மற்றும்", "te": "మరియు", "kn": "ಮತ್ತು", "ml": "കൂടാതെ", "en": "and"}
# Letters that stand for a first name, as the language writes their English names.
_DEVANAGARI = "ए बी सी डी ई एफ जी एच आई जे के एल एम एन ओ पी आर एस टी वी"
INITIALS = {"hi": _DEVANAGARI, "mr": _DEVANAGARI, "ne": _DEVANAGARI, "en": "A B C D E F G H I J K L M N O P R S T V",
            "ur": "اے بی سی ڈی ای ایف جی ایچ آئی جے کے ایل ایم این او پی آر ایس ٹی وی",
            "pa": "ਏ ਬੀ ਸੀ ਡੀ ਈ ਐੱਫ ਜੀ ਐੱਚ ਆਈ ਜੇ ਕੇ ਐੱਲ ਐੱਮ ਐੱਨ ਓ ਪੀ ਆਰ ਐੱਸ ਟੀ ਵੀ",
            "bn": "এ বি সি ডি ই এফ জি এইচ আই জে কে এল এম এন ও পি আর এস টি ভি",
            "as": "এ বি চি ডি ই এফ জি এইচ আই জে কে এল এম এন অ' পি আৰ এছ টি ভি",
            "or": "ଏ ବି ସି ଡି ଇ ଏଫ ଜି ଏଚ ଆଇ ଜେ କେ ଏଲ ଏମ ଏନ ଓ ପି ଆର ଏସ ଟି ଭି",
            "gu": "એ બી સી ડી ઈ એફ જી એચ આઈ જે કે એલ એમ એન ઓ પી આર એસ ટી વી",
            "ta": "ஏ பி சி டி இ எஃப் ஜி எச் ஐ ஜே கே எல் எம் என் ஓ ஆர் எஸ் வி மு கு நா சு",
            "te": "ఎ బి సి డి ఇ ఎఫ్ జి హెచ్ ఐ జె కె ఎల్ ఎమ్ ఎన్ ఒ పి ఆర్ ఎస్ టి వి",
            "kn": "ಎ ಬಿ ಸಿ ಡಿ ಇ ಎಫ್ ಜಿ ಹೆಚ್ ಐ ಜೆ ಕೆ ಎಲ್ ಎಂ ಎನ್ ಒ ಪಿ ಆರ್ ಎಸ್ ಟಿ ವಿ",
            "ml": "എ ബി സി ഡി ഇ എഫ് ജി എച്ച് ഐ ജെ കെ എൽ എം എൻ ഒ പി ആർ എസ് ടി വി"}
PLACE_ENDING = {"bn": "ে", "ta": " ஊரில்", "te": "లో", "mr": " मध्ये", "gu": "માં", "kn": "ನಲ್ಲಿ", "ml": "ിൽ", "or": "ରେ", "as": "ত", "ne": "मा"}


def parse(text):
    """Text -> a sequence of str, ("slot", name), ("alt" or "same", [sequence]) and ("span", label, [sequence])."""
    tokens = list(TOKEN.finditer(text))
    assert sum(len(t.group()) for t in tokens) == len(text), text

    def alternatives(i, closing):
        branches = [[]]
        while i < len(tokens):
            slot, label, mark, plain = tokens[i].groups()
            i += 1
            if slot:
                branches[-1].append(("slot", slot))
            elif label:
                inner, i = alternatives(i, ">")
                branches[-1].append(("span", label, inner))
            elif mark == "(":
                inner, i = alternatives(i, ")")
                same = inner[0] and inner[0][0][0] == "="
                if same:
                    inner[0][0] = inner[0][0][1:]
                branches[-1].append(("same" if same else "alt", inner))
            elif mark == "|":
                branches.append([])
            elif mark:
                assert mark == closing, text
                return branches, i
            else:
                branches[-1].append(plain)
        assert closing is None, text
        return branches, i

    branches, _ = alternatives(0, None)
    return branches[0] if len(branches) == 1 else [("alt", branches)]


class Scene:
    def __init__(self):
        self.contexts, self.lists, self.questions, self.unanswered = [], [], {}, []


class Language:
    """The lists of one language, its kinds of scenes, and its notes: scenes of one situation each."""

    def __init__(self, lang):
        self.lang, self.lists, self.scenes, self.notes = lang, {}, {}, {}
        self.read(HERE / "grammar" / f"{lang}.txt", self.scenes)
        self.read(HERE / "grammar" / "notes" / f"{lang}.txt", self.notes)
        # A note is drawn as often as it has questions, summed up from the first one on.
        counts = (sum(map(len, note.questions.values())) for note in self.notes.values())
        self.note_weights = list(self.notes), list(itertools.accumulate(counts))

    def read(self, path, scenes):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("!"):
                name, items = line[1:].split(" ", 1)
                self.lists[name] = [parse(x.strip()) for x in items.split("|" if "|" in items else ",")]
            elif line.startswith("["):
                name = line.strip("[]")
                assert name not in scenes, f"{path.name}: [{name}] stands twice"
                scene = scenes[name] = Scene()
            elif line:
                key, body = line.split(" ", 1)
                if key == "C":
                    scene.contexts.append([parse(s) for s in body.replace("\\n", "\n").split(" || ")])
                    if scene is self.scenes.get("reading"):
                        scene.lists.append([parse(s) for s in re.split(r"[,،] ", body.split(" || ")[0].rstrip(".।۔"))])
                elif key == "-":
                    scene.unanswered.append(parse(body))
                else:
                    scene.questions.setdefault(key, []).append(parse(body))


class Passage:
    """Sentences about the same names, and wordings that ask for a typed part, by its number from 1 on."""

    def __init__(self, body):
        self.sentences, self.questions = [parse(s) for s in body.split(" ; ")], {}


class Clauses:
    """One language of clauses.txt and passages/<lang>.txt: `asks` question words per span type; its lists join the language's."""

    def __init__(self):
        self.asks, self.passages = {}, []


def load():
    """{language: Language}, {language: Clauses}"""
    languages, clauses = {lang: Language(lang) for lang in LANGS}, {}
    written = [(HERE / "grammar" / "clauses.txt").read_text(encoding="utf-8")]
    written += [f"@{lang}\n" + (HERE / "grammar" / "passages" / f"{lang}.txt").read_text(encoding="utf-8") for lang in LANGS]
    for line in "".join(written).splitlines():
        key, body = line[0], line[1:]
        if key == "@":
            lang = body
            clauses.setdefault(lang, Clauses())
        elif key == "?":
            kind, words = body.split(" ", 1)
            clauses[lang].asks[kind] = words.split("|")
        elif key == "!":
            name, items = body.split(" ", 1)
            languages[lang].lists[name] = [parse(x) for x in items.split("|")]
        elif key == "Q":
            number, body = body.split(" ", 1)
            clauses[lang].passages[-1].questions.setdefault(int(number), []).append(parse(body))
        else:
            clauses[lang].passages.append(Passage(line[2:]))
    return languages, clauses


GRAMMAR, CLAUSES = load()


class Draw:
    """One random context: its text, the answer spans and the fillers used."""

    def __init__(self, rng, lang, text, split="train"):
        self.rng, self.lang, self.text = rng, lang, text
        self.names = "train" if split == "train" else "eval"
        self.fillers, self.spans = {}, {}

    def flat(self, sequence, on_slot, on_span=None):
        out = ""
        for part in sequence:
            if isinstance(part, str):
                out += part
            elif part[0] == "slot":
                out += on_slot(part[1])
            else:
                inner = self.flat(self.rng.choice(part[-1]), on_slot, on_span)
                out += inner
                if part[0] == "span" and on_span:
                    on_span(part[1], inner)
        return out

    def items(self, items):
        """Some of the items of a list, in any order, with a comma, a line break or "and" between them."""
        kept = self.rng.sample(items, self.rng.randint(1, len(items)))
        texts = [self.flat(s, self.slot, self.spans.__setitem__).strip() for s in kept]
        if self.rng.random() < 0.25:
            return "\n".join(texts)
        last = (" " + AND[self.lang] + " ") if self.rng.random() < 0.5 else COMMA.get(self.lang, ",") + " "
        comma = COMMA.get(self.lang, ",") + " "
        return (comma.join(texts[:-1]) + last + texts[-1] if len(texts) > 1 else texts[0]) + STOP.get(self.lang, ".")

    def context(self, sentences):
        """Half of the time whole, so that much else stands beside an answer; else without some of the sentences after the first."""
        share = self.rng.choice((0.7, 1.0))
        kept = [s for i, s in enumerate(sentences) if i == 0 or self.rng.random() < share]
        return " ".join(self.flat(s, self.slot, self.spans.__setitem__) for s in kept).strip()

    def slot(self, name):
        """A new filler for a slot of the context, different from the others of its kind."""
        if name not in self.fillers:
            kind = name.rstrip("0123456789")
            for _ in range(20):
                value = self.filler(kind)
                if kind in VALUES or value not in self.fillers.values():
                    break
            if kind in ONCE:
                self.fillers[name] = value
            return value
        return self.fillers[name]

    def filler(self, kind):
        rng, lang = self.rng, self.lang
        if kind in VALUES:
            return VALUES[kind](rng, lang)
        if kind == "name" or (kind in OPEN and rng.random() < 0.3):
            if rng.random() < 0.4:
                name = invented_name(rng, lang, self.names)
                if kind in ("name", "person") and rng.random() < 0.4:
                    name += " " + invented_name(rng, lang, self.names)
            else:
                name = " ".join(rng.choice(self.text[lang].rare) for _ in range(rng.choice((1, 1, 2))))
            return name + (PLACE_ENDING[lang] if kind == "loc" else "")
        cldr = {"item": "item", "place": "cityname", "crop": "crop"}.get(kind)
        if cldr and rng.random() < 0.25:
            return rng.choice(NAMES[lang][cldr][self.names])
        return self.person() if kind == "person" else self.pattern(kind)

    def pattern(self, kind):
        return self.flat(self.rng.choice(GRAMMAR[self.lang].lists[kind]), self.slot)

    def person(self):
        """A listed name, or parts of two, with initials, a title or a further name at times."""
        rng, name = self.rng, self.pattern("person")
        if rng.random() < 0.3:
            name = name.split()[0] + " " + self.pattern("person").split()[-1]
        while rng.random() < 0.22 and name.count(" ") < 4:
            name += " " + (rng.choice(self.text[self.lang].rare) if rng.random() < 0.5 else invented_name(rng, self.lang, self.names))
        if rng.random() < 0.12:
            letters = rng.choices(INITIALS[self.lang].split(), k=rng.choice((1, 2, 2)))
            name = (". " if rng.random() < 0.6 else ".").join(letters) + ". " + name.split()[-1]
        return self.pattern("title") + " " + name if rng.random() < 0.25 else name

    def question(self, template, index, absent=None):
        """The wording with fillers of the span `index`; "" when one is missing. `absent` replaces the one named in it."""
        missing = []

        def on_slot(name):
            if absent and name == absent[0]:
                return absent[1]
            for key in ([name + index] if index else []) + ([name + "1", name] if not index else [name]):
                if key in self.fillers:
                    return spoken(self.rng, self.lang, self.fillers[key]) if name in ENTITY else self.fillers[key]
            missing.append(name)
            return ""

        wording = self.flat(template, lambda name: "{" + name + "}")
        filled = re.sub(r"\{(\w+)\}", lambda m: on_slot(m.group(1)), wording)
        return ("", wording) if missing else (filled, wording)


def slots_of(sequence):
    for part in sequence:
        if not isinstance(part, str):
            if part[0] == "slot":
                yield part[1]
            else:
                for branch in part[-1]:
                    yield from slots_of(branch)


def wording_held_out(lang, wording):
    """One wording in twelve is never used in training."""
    return zlib.crc32(f"{lang}:{wording}".encode()) % 12 == 0


def big_number(rng):
    n = number(rng, 100, 10 ** rng.choice((3, 3, 4, 4, 5, 6)) - 1, "train")
    return indian_grouping(n) if len(n) > 3 and rng.random() < 0.6 else n


def small_number(rng):
    return str(rng.randint(2, 99)) if rng.random() < 0.7 else number(rng, 100, 400, "train")


def clock(rng, lang):
    hour, minute = rng.randint(1, 12 if rng.random() < 0.7 else 23), rng.choice((0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, rng.randint(0, 59)))
    x = rng.random()
    return str(hour) if x < 0.3 else f"{hour}{'.' if x < 0.4 else ':'}{minute:02d}"


def date(rng, lang):
    day, month = rng.randint(1, 31), rng.choice(NAMES[lang]["months"])
    x = rng.random()
    return (f"{month} {day}" if x < 0.1 else f"{day}/{rng.randint(1, 12)}" if x < 0.15
            else f"{day} {month} {rng.randint(2015, 2030)}" if x < 0.25 else f"{day} {month}")


def phone(rng, lang):
    digits = number(rng, 6 * 10 ** 9, 10 ** 10 - 1, "train")
    x = rng.random()
    return (digits if x < 0.6 else f"{digits[:5]} {digits[5:]}" if x < 0.75 else f"0{digits[:3]}-{digits[3:9]}" if x < 0.85
            else f"+91 {digits}" if x < 0.9 else f"{rng.randint(100, 9999)}-{digits[4:]}")


VALUES = {
    "n": lambda r, l: small_number(r) if r.random() < 0.45 else big_number(r), "num": lambda r, l: small_number(r),
    "big": lambda r, l: big_number(r), "dec": lambda r, l: f"{r.randint(1, 99)}.{r.randint(0, 99)}", "time": clock, "date": date,
    "phone": phone, "day": lambda r, l: r.choice(NAMES[l]["days"]), "month": lambda r, l: r.choice(NAMES[l]["months"]),
    "year": lambda r, l: str(r.randint(1100, 2026)),
}
ONCE = {"item", "person", "place", "loc", "event", "name", "medicine", "crop", "job"}   # remembered by slot name
OPEN = {"item", "person", "place", "loc", "event", "medicine", "crop", "bring", "job"}                # may be a name never seen
ENTITY = ("item", "person", "place", "name", "medicine", "crop", "event")                      # swapped for near misses


NOTES = 0.85    # share of the notes among scenes


def sample(rng, lang, questions, text, split="train"):
    """(context, [(kind, question, answer)]) of one scene; split "dev" asks in held-out wordings only."""
    if rng.random() < NOTES:
        names, weights = GRAMMAR[lang].note_weights
        name = rng.choices(names, cum_weights=weights)[0]
        scene = GRAMMAR[lang].notes[name]
    else:
        name, scene = rng.choice(list(GRAMMAR[lang].scenes.items()))
    draw = Draw(rng, lang, text, split)
    context = draw.items(rng.choice(scene.lists)) if scene.lists and rng.random() < 0.6 else draw.context(rng.choice(scene.contexts))
    digits = NATIVE_DIGITS[lang] if lang in NATIVE_DIGITS and rng.random() < 0.35 else {}
    spans = {}
    for label, answer in draw.spans.items():
        base, index = re.fullmatch(r"([a-z]+)(\d?)", label).groups()
        spans.setdefault(base, {})[index] = answer
    out, asked = [], set()
    for _ in range(questions * 8):
        if len(out) == questions:
            break
        base, index, answer, absent = None, "", NOTGIVEN[lang], None
        x = rng.random()
        if x < 0.07 and scene.unanswered:
            template = rng.choice(scene.unanswered)
            index = "1"
        elif x < 0.12:
            base = rng.choice(list(scene.questions))
            if base in spans or NEAR.get(base, set()) & set(spans):
                continue
            template, index = rng.choice(scene.questions[base]), rng.choice(("", "1"))
        else:
            # Without its other sentences a context may have nothing to ask for.
            base = rng.choice(list(spans)) if spans else None
            if base not in scene.questions:
                continue
            index = rng.choice(list(spans[base]))
            template = rng.choice(scene.questions[base])
            answer = spans[base][index]
            entities = [s for s in slots_of(template) if s in ENTITY]
            if x < 0.18:
                if not entities or (base == "when" and "event" in entities):
                    continue
                absent = (entities[0], draw.filler(entities[0]))
                if absent[1] in context:
                    continue
                answer = NOTGIVEN[lang]
        question, wording = draw.question(template, index, absent)
        needs_entity = base in spans and len(spans[base]) > 1
        if not question or (needs_entity and not any("{" + s + "}" in wording for s in ENTITY)):
            continue
        if absent and "{" + absent[0] + "}" not in wording:
            continue
        if wording_held_out(lang, wording) != (split == "dev") or question in asked:
            continue
        asked.add(question)
        kind = f"{name}/{base if answer != NOTGIVEN[lang] else 'none/name' if absent else 'none'}"
        out.append((kind, question.strip().translate(digits), answer.strip().translate(digits)))
    return context.translate(digits), out
