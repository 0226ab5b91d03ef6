"""Builds data/names.json.xz: names per language from CLDR 48.2.0, each in exactly one split.

    npm install cldr-localenames-full@48.2.0 cldr-dates-full@48.2.0 cldr-numbers-full@48.2.0 \
        cldr-units-full@48.2.0 cldr-annotations-full@48.2.0 cldr-annotations-derived-full@48.2.0
    python names.py node_modules

The split of a name is a hash of its CLDR key, so the same country is held out in every language.
"""
import json
import lzma
import re
import sys
import unicodedata
import zlib
from pathlib import Path

from records_wording import LANGS

HERE = Path(__file__).parent
NAMES = HERE / "data" / "names.json.xz"
KINDS = ("terr", "lang", "cur", "item", "crop", "job", "cityname")

ITEMS = "🍇🍈🍉🍊🍋🍌🍍🥭🍎🍏🍐🍑🍒🍓🥝🍅🥥🥑🍆🥔🥕🌽🌶🥒🥬🥦🧄🧅🍄🥜🌰🍞🥐🥖🥨🥞🧇🧀🍖🍗🥩🥓🍔🍟🍕🌭🥪🌮🌯🥚🍳🥘🍲🥗🍿🧈🧂🥫🍱🍘🍙🍚🍛🍜🍝🍠🍢🍣🍤🍥🍡🥟🦀🦞🦐🦑🍦🍧🍨🍩🍪🎂🍰🧁🥧🍫🍬🍭🍮🍯🍼🥛🍵🪑🛏🚪🪟🪞🧴🧵🧶🪡👓🕶👕👖🧣🧤🧥🧦👗👘🥻👚👛👜👝🎒👞👟👠👡👢👑👒🎩🎓💍🔔🎸🎹🎺🎻🥁📱💻🖨⌨🖱💿📷📹📺📻⏰⌚🔦💡🕯📕📗📘📙📚📓📒📃📜📰🔖🏷💰✏✒🖋🖊🖌🖍📝💼📁📅📎📏📐✂🔒🔑🔨🪓⛏🔧🔩⚙🧲🪜🧪🔬🔭🧹🧺🧻🪣🧼🪥🧽🛒🚲🛴🛵🏍🚗🚜🐄🐂🐃🐖🐏🐑🐐🐪🐘🐓🐣🦆🐟"
CROPS = "🍇🍉🍊🍋🍌🍍🥭🍎🍐🍑🍒🍓🥝🍅🥥🥑🍆🥔🥕🌽🌶🥒🥬🥦🧄🧅🍄🥜🌰🍠🌻🌹🌷🌼🫛🫚🫘🎃"
JOBS = "🧑‍🎓 🧑‍🏫 🧑‍⚖️ 🧑‍🌾 🧑‍🍳 🧑‍🔧 🧑‍🏭 🧑‍💼 🧑‍🔬 🧑‍💻 🧑‍🎤 🧑‍🎨 🧑‍✈️ 🧑‍🚀 🧑‍🚒 👮 🕵 💂 👷 🧑‍⚕️".split()
LANGUAGES = "hi bn ta te mr gu kn ml pa or as ur ne en fr de es pt it ru zh ja ko ar fa tr th vi id ms sw nl sv da fi no pl cs sk hu ro bg el he uk sr hr sl et lv lt ka hy az kk uz ky tg mn my km lo si dv ps ku am so yo ig ha zu xh af mg is ga cy eu ca gl mt sq mk bs be fy lb jv su tl mi sm to fj haw qu gn ay ht la eo sa sd ks mai bho kok mni sat doi brx bo dz ti om rw rn ny sn st tn lg ln wo ff bm".split()
CURRENCIES = "INR USD EUR GBP JPY CNY KRW RUB BRL MXN ZAR NGN EGP KES PKR BDT NPR LKR MMK THB VND IDR MYR SGD PHP AUD NZD CAD CHF SEK NOK DKK PLN CZK HUF RON BGN TRY ILS SAR AED QAR KWD OMR BHD JOD IQD IRR AFN UZS KZT GEL AMD AZN UAH BYN MDL RSD MKD ALL ISK ARS CLP COP PEN BOB UYU PYG VES CRC GTQ HNL NIO PAB DOP JMD TTD BBD BSD BZD CUP HTG ETB GHS TZS UGX RWF ZMW MWK MZN AOA BWP NAD SZL LSL MGA MUR SCR MAD TND DZD LYD SDG XOF XAF CDF GMD GNF LRD SLE CVE BTN MVR LAK KHR MNT KGS TJS TMT FJD PGK WST TOP VUV SBD".split()
UNITS = {
    "kg": "mass-kilogram", "g": "mass-gram", "l": "volume-liter", "ml": "volume-milliliter",
    "c": "temperature-celsius", "mm": "length-millimeter", "kmh": "speed-kilometer-per-hour",
    "day": "duration-day", "km2": "area-square-kilometer", "pct": "concentr-percent",
    "mg": "mass-milligram", "year": "duration-year",
}


def nfc(text):
    return unicodedata.normalize("NFC", text)


def split_of(key):
    """train 70 %, eval 15 %, test 15 % of the CLDR keys."""
    c = zlib.crc32(key.encode()) % 20
    return "eval" if c < 3 else "test" if c < 6 else "train"


def usable(name):
    return bool(name) and len(name) <= 28 and not re.search(r'[,(){}\[\];/|:،0-9–—”“"]', name)


class Cldr:
    """The CLDR JSON packages under one node_modules folder."""

    def __init__(self, root):
        self.root = Path(root)

    def load(self, package, lang, file, *path):
        base = self.root / f"cldr-{package}-full"
        top = {"annotations": "annotations", "annotations-derived": "annotationsDerived"}.get(package, "main")
        node = json.loads((base / top / lang / file).read_text(encoding="utf-8"))
        for key in path:
            node = node[key]
        return node

    def names(self, lang):
        main = ("main", lang)
        terr = self.load("localenames", lang, "territories.json", *main, "localeDisplayNames", "territories")
        langs = self.load("localenames", lang, "languages.json", *main, "localeDisplayNames", "languages")
        cur = self.load("numbers", lang, "currencies.json", *main, "numbers", "currencies")
        emoji = self.load("annotations", lang, "annotations.json", "annotations", "annotations")
        derived = self.load("annotations-derived", lang, "annotations.json", "annotationsDerived", "annotations")
        calendar = self.load("dates", lang, "ca-gregorian.json", *main, "dates", "calendars", "gregorian")
        units = self.load("units", lang, "units.json", *main, "units", "long")

        found = {k: {"train": [], "eval": [], "test": []} for k in KINDS}

        def add(kind, key, name):
            name = nfc(name).strip().replace("\u200b", "") if name else ""
            if usable(name):
                found[kind][split_of(("item" if kind == "crop" else kind) + key)].append(name)

        def spoken(e):
            bare = e.replace("\ufe0f", "")
            hit = emoji.get(e) or derived.get(e) or emoji.get(bare) or derived.get(bare) or {}
            return hit.get("tts", [None])[0]

        for code in self.territory_codes():
            add("terr", code, terr.get(code))
        for code in LANGUAGES:
            add("lang", code, langs.get(code))
        for code in CURRENCIES:
            name = cur.get(code, {}).get("displayName")
            add("cur", code, name if name != code else None)
        for kind, chars in (("item", ITEMS), ("crop", CROPS), ("job", JOBS)):
            for e in chars:
                add(kind, e, spoken(e))
        for key, city in self.cities(lang):
            add("cityname", key, city)
        keep_one_split(found)
        return {
            **found,
            "cont": [nfc(terr[c]) for c in ("002", "019", "142", "150", "009")],
            "months": [nfc(x) for x in calendar["months"]["stand-alone"]["wide"].values()],
            "days": [nfc(x) for x in calendar["days"]["stand-alone"]["wide"].values()],
            "unit": {k: unit_patterns(units.get(u, {})) for k, u in UNITS.items()},
        }

    def territory_codes(self):
        terr = self.load("localenames", "en", "territories.json", "main", "en", "localeDisplayNames", "territories")
        return [k for k in terr if re.fullmatch("[A-Z]{2}", k) and k not in ("EU", "EZ", "UN", "XA", "XB", "ZZ", "QO")]

    def cities(self, lang):
        """(key, name) of the time zones' example cities; English ones from the zone keys of Hindi."""
        def walk(node, path):
            for key, child in node.items():
                if isinstance(child, dict):
                    if "exemplarCity" in child:
                        yield path + key, child["exemplarCity"] if lang != "en" else key.replace("_", " ")
                    yield from walk(child, path + key)

        source = "hi" if lang == "en" else lang
        zones = self.load("dates", source, "timeZoneNames.json", "main", source, "dates", "timeZoneNames", "zone")
        return list(walk(zones, ""))


def unit_patterns(unit):
    other = unit.get("unitPattern-count-other")
    return [nfc(unit.get("unitPattern-count-one", other)), nfc(other)] if other else None


def keep_one_split(found):
    """Drops from eval what is in train, and from test what is in train or eval, across all kinds."""
    for kind in KINDS:
        for split in found[kind]:
            found[kind][split] = sorted(set(found[kind][split]))
    train = {x for k in KINDS for x in found[k]["train"]}
    held = set()
    for split in ("eval", "test"):
        for kind in KINDS:
            found[kind][split] = [x for x in found[kind][split] if x not in train and x not in held]
        held |= {x for k in KINDS for x in found[k][split]}


def load_names():
    with lzma.open(NAMES, "rt", encoding="utf-8") as f:
        return json.load(f)


if __name__ == "__main__":
    cldr = Cldr(sys.argv[1])
    table = {lang: cldr.names(lang) for lang in LANGS}
    with lzma.open(NAMES, "wt", encoding="utf-8") as f:
        json.dump(table, f, ensure_ascii=False)
    for lang in LANGS:
        print(lang, {k: [len(v) for v in table[lang][k].values()] for k in KINDS})
