"""Records of the first checkpoint: 29 relations, 7 record kinds, 5 layouts, in 14 languages.

`sample` draws a context and questions; its eval split made eval.jsonl, so wordings, names and numbers keep
the split of `records_wording.py`, `names.py` and `values.py`.
"""
import unicodedata

from names import KINDS, load_names
from records_wording import (A, AMOUNT, ATTRS, COMMA, G, H, HDR, HM, LANGS, NOTGIVEN, POSS, PX, QM, QP, RV, SENT, SPEC,
                             STOP, TOD, WHO)
from values import NATIVE_DIGITS, in_split, indian_grouping, invented_name, number

NAMES = load_names()
LABEL = {l: {k: (v.split(":") + [""])[:2] for k, v in zip(ATTRS, A[l].split(","))} for l in LANGS}
HEADER = {l: dict(zip(HDR, H[l].split(","))) for l in LANGS}
RECORDS = {
    "country": "currency language continent population area".split(),
    "item": "price weight stock".split(),
    "bus": "depart arrive platform day dest fare".split(),
    "place": "temp humid rain wind".split(),
    "person": "age city phone job bmonth".split(),
    "medicine": "dose tod dur price".split(),
    "crop": "sow harvest water area".split(),
}
# record kind -> (list of CLDR names, share drawn from it; the rest are invented)
ENTITIES = {"country": ("terr", 0.75), "item": ("item", 0.7), "crop": ("crop", 0.55), "place": ("cityname", 0.6)}


def unit(lang, name, amount):
    one, other = NAMES[lang]["unit"][name] or ("{0}", "{0}")
    return (one if amount == "1" else other).replace("{0}", amount)


def open_value(rng, lang, text):
    """Words of any kind, for cells whose names are few: they must be copied, not recalled."""
    x = rng.random()
    if x < 0.4:
        return " ".join(rng.choice(rng.choice((text[lang].rare, text[lang].common))) for _ in range(rng.choice((1, 1, 2, 2, 3))))
    if x < 0.8:
        names = [rng.choice(NAMES[lang][rng.choice(KINDS)]["train"]) for _ in range(2)]
        return names[0] if x < 0.65 else names[0].split()[0] + " " + names[1].split()[-1]
    return invented_name(rng, lang, "train")


def value(rng, lang, attr, split, style, text=None):
    """The text of one cell."""
    if split == "train" and attr in ("currency", "language", "job", "continent", "tod") and rng.random() < 0.4:
        return open_value(rng, lang, text)
    pick = lambda kind: rng.choice(NAMES[lang][kind][split])
    num = lambda low, high, dec=0: number(rng, low, high, split, dec)
    if attr in ("currency", "language", "job"):
        return pick({"currency": "cur", "language": "lang", "job": "job"}[attr])
    if attr == "continent":
        return rng.choice(NAMES[lang]["cont"])
    if attr == "population":
        n = num(10 ** 4, 10 ** rng.randint(5, 9) - 1)
        return indian_grouping(n) if style["grouped"] else n
    if attr in ("price", "fare"):
        return style["currency"] + num(2, rng.choice((99, 999, 9999))) + (".50" if rng.random() < 0.15 else "")
    if attr in ("depart", "arrive"):
        for _ in range(400):
            clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
            if in_split("#" + clock, split):
                break
        return clock
    if attr == "day":
        return rng.choice(NAMES[lang]["days"])
    if attr in ("dest", "city"):
        return pick("cityname") if rng.random() < 0.55 else invented_name(rng, lang, split)
    if attr == "temp":
        return unit(lang, "c", num(1, 49) if rng.random() < 0.5 else num(10, 499, 1))
    if attr == "age":
        plain = rng.random() < 0.6 or not NAMES[lang]["unit"]["year"]
        return num(1, 99) if plain else unit(lang, "year", num(2, 99))
    if attr in ("bmonth", "sow", "harvest"):
        return rng.choice(NAMES[lang]["months"])
    if attr == "tod":
        return rng.choice(TOD[lang].split(","))
    if attr == "humid":
        return num(1, 100) + "%"
    if attr == "phone":
        return num(6 * 10 ** 9, 10 ** 10 - 1)
    name, low, high = {
        "area": ("km2", 100, 10 ** rng.randint(4, 7) - 1), "weight": (rng.choice(("kg", "g")), 2, rng.choice((50, 999))),
        "stock": (None, 1, rng.choice((99, 999))), "platform": (None, 1, 60), "rain": ("mm", 1, 400),
        "wind": ("kmh", 1, 150), "dose": (rng.choice(("ml", "mg")), 1, rng.choice((60, 900))),
        "dur": ("day", 2, 120), "water": ("l", 2, rng.choice((90, 999))),
    }[attr]
    amount = num(low, high)
    return unit(lang, name, amount) if name else amount


def entity(rng, lang, record, split):
    x = rng.random()
    if record in ENTITIES:
        kind, share = ENTITIES[record]
        return rng.choice(NAMES[lang][kind][split]) if x < share else invented_name(rng, lang, split)
    if record == "medicine":
        return invented_name(rng, lang, split, 2, 5)
    second = {"person": invented_name(rng, lang, split) if x < 0.4 else "",
              "bus": number(rng, 10, 999, split) if x < 0.35 else ""}[record]
    return (invented_name(rng, lang, split) + " " + second).strip()


def capital(lang, text):
    return text[0].upper() + text[1:] if lang == "en" else text


def possessive(lang, record, name, attr):
    label, gender = LABEL[lang][attr]
    pattern = POSS[lang]
    if isinstance(pattern, tuple):
        pattern = pattern[record == "person"]
    return pattern.format(e=name, a=label, g=G.get(lang, {}).get(gender, ""))


def noisy(rng, lang, question, core, text):
    """Training only: other sentences and words of natural text around the question, so that no fixed phrasing is a key."""
    x = rng.random()
    if x < 0.3:
        return question
    if x < 0.4:
        return rng.choice(PX[lang]) + question
    base = (core if rng.random() < 0.5 else question).rstrip("?؟।.۔ ")
    words = lambda: " ".join(rng.choice(text[lang].common) for _ in range(rng.randint(1, 5)))
    if rng.random() < 0.55:
        base = words() + rng.choice((" ", " ", ", ", ": ")) + base
    if rng.random() < 0.55:
        base = base + rng.choice((" ", " ", ", ", " - ")) + words()
    mark = QM.get(lang, "?")
    return base + rng.choice((mark, mark, STOP.get(lang, "."), ""))


def forward_question(rng, lang, record, name, attr, split, single, text):
    """Asks for a value. Returns (question, "seen" | "new" wording)."""
    label, gender = LABEL[lang][attr]
    train, eval_, test = QP[lang]
    core = possessive(lang, record, name, attr)
    if split != "train" and rng.random() < 0.5:
        return capital(lang, (eval_ if split == "eval" else test).format(P=core)), "new"
    x = rng.random()
    if single and x < 0.25:
        core = ("the " if lang == "en" else "") + label
    elif x < 0.35:
        return f'{name}: {label}{QM.get(lang, "?")}', "seen"
    elif attr in SPEC and x < 0.6:
        return SPEC[attr][lang].format(e=name), "seen"
    pattern = rng.choice([t for t in train if t[0] != "h" or attr in AMOUNT])
    question = pattern[1:].format(P=core, h=HM.get(lang, {}).get(gender, ""))
    if split == "train":
        question = noisy(rng, lang, question, core, text)
    return capital(lang, question), "seen"


def reverse_question(rng, lang, record, attr, cell, split, text):
    """Asks which entity has a value."""
    core, eval_, test = RV[lang]
    label, gender = LABEL[lang][attr]
    if isinstance(core, tuple):
        core = core[record == "person"]
    fill = lambda t: t.format(a=label, v=cell, w=WHO.get(lang, {}).get(gender, ""))
    if split != "train" and rng.random() < 0.5:
        prefix = eval_ if split == "eval" else test
        return (fill(prefix) if lang == "en" else prefix + fill(core)), "new"
    question = fill(core)
    return (noisy(rng, lang, question, question, text) if split == "train" else question), "seen"


def render(rng, lang, record, names, attrs, rows, layout):
    """The context of a table of cells in one of five layouts."""
    head = HEADER[lang][record]
    labels = [LABEL[lang][a][0] for a in attrs]
    stop, comma = STOP.get(lang, "."), COMMA.get(lang, ",")
    run = lambda row: f"{comma} ".join(f"{b} {v}" for b, v in zip(labels, row))
    if layout == "kv":
        return "\n".join("\n".join([f"{head}: {e}"] + [f"{b}: {v}" for b, v in zip(labels, row)]) for e, row in zip(names, rows))
    if layout == "table":
        lines = [[head] + labels] + [[e] + row for e, row in zip(names, rows)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    if layout == "line":
        return "\n".join(f"- {e}: {run(row)}" for e, row in zip(names, rows))
    if layout == "sent2":
        return " ".join(f"{e}: {run(row)}{stop}" for e, row in zip(names, rows))
    facts = [capital(lang, SENT[lang].format(P=possessive(lang, record, e, a), v=v))
             for e, row in zip(names, rows) for a, v in zip(attrs, row)]
    if rng.random() < 0.3:
        rng.shuffle(facts)
    return " ".join(facts)


def sample(rng, lang, split, max_records, questions, text=None, alone=True):
    """(context, [(kind, question, answer)]); `text` (of load_text) is needed for the train split only.

    Where the records do not stand `alone` in their document, every question names what it asks of."""
    record = rng.choice(list(RECORDS))
    count = rng.randint(1, max_records)
    width = rng.randint(1 if count > 1 else 2, len(RECORDS[record]))
    if count * width > 20 and max_records <= 6:
        width = max(1, 20 // count)
    attrs = rng.sample(RECORDS[record], width)
    if rng.random() < 0.5:
        attrs = [a for a in RECORDS[record] if a in attrs]
    style = {"grouped": rng.random() < 0.5, "currency": rng.choice(("₹", "₹ "))}
    names = []
    while len(names) < count:
        name = entity(rng, lang, record, split)
        names += [name] if name not in names else []
    rows = [[value(rng, lang, a, split, style, text) for a in attrs] for _ in names]
    digits = NATIVE_DIGITS[lang] if lang in NATIVE_DIGITS and rng.random() < 0.4 else {}
    names = [e.translate(digits) for e in names]
    rows = [[v.translate(digits) for v in row] for row in rows]
    layout = rng.choice(("kv", "table", "line", "sent", "sent2"))
    context = render(rng, lang, record, names, attrs, rows, layout)

    asked, out = set(), []
    for _ in range(questions):
        x = rng.random()
        i, j = rng.randrange(count), rng.randrange(width)
        name, attr, answer, kind = names[i], attrs[j], rows[i][j], "value"
        column = [row[j] for row in rows]
        if x < 0.13:
            missing = [a for a in RECORDS[record] if a not in attrs]
            if missing and rng.random() < 0.5:
                attr = rng.choice(missing)
            else:
                while name in names:
                    name = (entity(rng, lang, record, split) if rng.random() < 0.7 else invented_name(rng, lang, split)).translate(digits)
            answer, kind = NOTGIVEN[lang], "none"
        elif x < 0.28 and count > 1 and column.count(answer) == 1:
            answer, kind = name, "entity"
        if kind == "entity":
            question, wording = reverse_question(rng, lang, record, attr, rows[i][j], split, text)
        else:
            question, wording = forward_question(rng, lang, record, name, attr, split, alone and count == 1 and kind == "value", text)
        question = question.translate(digits)
        if question not in asked:
            asked.add(question)
            out.append((f"{record}/{layout}/{kind}/{wording}", question, answer))
    nfc = lambda s: unicodedata.normalize("NFC", s)
    return nfc(context), [(kind, nfc(q), nfc(a)) for kind, q, a in out]
