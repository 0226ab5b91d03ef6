"""Wordings around a question: lead-ins, tails, marks. And question words with the rules that pick one for a span."""
import re
from pathlib import Path

from records_wording import QM

# Before and after a question, as people put them (greeting, politeness, filler).
LEAD = {
    "hi": "भाई, |भैया |ज़रा बताइए, |बताओ |अच्छा, |सुनिए, |नमस्ते, |जी |प्लीज़ बताइए |ऊपर लिखे के हिसाब से |मुझे जानना है, |एक बात बताइए, |दीदी ",
    "bn": "দাদা, |আচ্ছা, |একটু বলুন, |বলুন তো, |শুনুন, |নমস্কার, |প্লিজ বলুন |জানতে চাই, |দিদি, |উপরের লেখা অনুযায়ী ",
    "ta": "ஐயா, |அண்ணா, |கொஞ்சம் சொல்லுங்க, |சரி, |வணக்கம், |தயவுசெய்து |சொல்லுங்கள், |மேலே உள்ளபடி |தெரிஞ்சுக்கணும், ",
    "te": "అన్నా, |కొంచెం చెప్పండి, |సరే, |నమస్తే, |దయచేసి |చెప్పండి, |పైన ఉన్న దాని ప్రకారం |తెలుసుకోవాలి, ",
    "mr": "दादा, |जरा सांगा, |बरं, |नमस्कार, |कृपया |सांगा ना, |वरील माहितीनुसार |मला सांगा, |ताई, ",
    "gu": "ભાઈ, |જરા કહો, |સારું, |નમસ્તે, |મહેરબાની કરીને |કહો ને, |ઉપર મુજબ |મારે જાણવું છે, |બેન, ",
    "kn": "ಅಣ್ಣ, |ಸ್ವಲ್ಪ ಹೇಳಿ, |ಸರಿ, |ನಮಸ್ಕಾರ, |ದಯವಿಟ್ಟು |ಹೇಳಿ, |ಮೇಲಿನ ಪ್ರಕಾರ |ತಿಳಿಯಬೇಕು, ",
    "ml": "ചേട്ടാ, |ഒന്നു പറയാമോ, |ശരി, |നമസ്കാരം, |ദയവായി |പറയൂ, |മുകളിൽ പറഞ്ഞതനുസരിച്ച് |അറിയണം, ",
    "pa": "ਭਾਜੀ, |ਜ਼ਰਾ ਦੱਸੋ, |ਅੱਛਾ, |ਸਤ ਸ੍ਰੀ ਅਕਾਲ, |ਕਿਰਪਾ ਕਰਕੇ ਦੱਸੋ |ਦੱਸਿਓ, |ਉੱਪਰ ਲਿਖੇ ਅਨੁਸਾਰ |ਵੀਰ ਜੀ, ",
    "or": "ଭାଇ, |ଟିକେ କୁହନ୍ତୁ, |ଆଚ୍ଛା, |ନମସ୍କାର, |ଦୟାକରି |କୁହନ୍ତୁ, |ଉପର ଅନୁସାରେ |ଜାଣିବାକୁ ଚାହେଁ, ",
    "as": "দাদা, |অলপ কওকচোন, |বাৰু, |নমস্কাৰ, |অনুগ্ৰহ কৰি |কওক, |ওপৰৰ মতে |জানিব বিচাৰোঁ, ",
    "ur": "بھائی، |ذرا بتائیں، |اچھا، |السلام علیکم، |براہ کرم |بتائیے |اوپر لکھے کے مطابق |جناب، ",
    "ne": "दाइ, |अलि भन्नुहोस्, |ए, |नमस्ते, |कृपया |भन्नुस् न, |माथिको अनुसार |दिदी, |मलाई थाहा चाहियो, ",
    "en": "hi, |please tell me |so |ok, |can you tell me |do you know |excuse me, |quick question: |according to this, |hey ",
}
TAIL = {
    "hi": " बताइए| बताओ| प्लीज़| जी| भाई| ज़रा बताना| पता है?", "bn": " বলুন| বলবেন?| প্লিজ| দাদা| একটু জানাবেন",
    "ta": " சொல்லுங்க| சொல்லுங்கள்| ப்ளீஸ்| தெரியுமா", "te": " చెప్పండి| చెప్పగలరా| ప్లీజ్| అండి",
    "mr": " सांगा| सांगाल का| प्लीज| हो", "gu": " કહો| કહેશો| પ્લીઝ| જણાવો", "kn": " ಹೇಳಿ| ಹೇಳ್ತೀರಾ| ಪ್ಲೀಸ್| ತಿಳಿಸಿ",
    "ml": " പറയൂ| പറയാമോ| പ്ലീസ്", "pa": " ਦੱਸੋ| ਜੀ| ਪਲੀਜ਼| ਦੱਸਿਓ", "or": " କୁହନ୍ତୁ| କହିବେ କି| ପ୍ଲିଜ୍",
    "as": " কওক| ক’ব নেকি| প্লিজ", "ur": " بتائیں| بتا دیں| پلیز| جی", "ne": " भन्नुहोस्| भन्नुस् न| प्लिज", "en": " please| thanks| pls",
}
LEAD = {lang: v.split("|") for lang, v in LEAD.items()}
TAIL = {lang: v.split("|") for lang, v in TAIL.items()}

# Question words for a blanked span. `num` number, `year` four digits, `clock` 6:40, `which` with a noun,
# `what` anything else.
WORDS = {
    "hi": dict(which="कौन सा|कौन सी|किस", num="कितने|कितना|कितनी", year="कब|किस साल|किस सन", clock="कब|कितने बजे", what="क्या|कौन सा|किस चीज़|कौन|क्या क्या"),
    "ur": dict(which="کون سا|کون سی|کس", num="کتنے|کتنا|کتنی", year="کب|کس سال|کس سن", clock="کب|کتنے بجے", what="کیا|کون سا|کس چیز|کون"),
    "pa": dict(which="ਕਿਹੜਾ|ਕਿਹੜੀ|ਕਿਸ", num="ਕਿੰਨੇ|ਕਿੰਨਾ|ਕਿੰਨੀ", year="ਕਦੋਂ|ਕਿਸ ਸਾਲ", clock="ਕਦੋਂ|ਕਿੰਨੇ ਵਜੇ", what="ਕੀ|ਕਿਹੜਾ|ਕੌਣ|ਕਿਹੜੀ"),
    "mr": dict(which="कोणता|कोणत्या|कोणती", num="किती", year="कधी|कोणत्या साली|कोणत्या वर्षी", clock="कधी|किती वाजता", what="काय|कोणता|कोण|कोणते"),
    "gu": dict(which="કયો|કઈ|કયા", num="કેટલા|કેટલું|કેટલી", year="ક્યારે|કઈ સાલમાં", clock="ક્યારે|કેટલા વાગ્યે", what="શું|કયું|કોણ|કઈ"),
    "bn": dict(which="কোন", num="কত|কতগুলি|কয়", year="কবে|কোন সালে|কত সালে", clock="কখন|কটায়", what="কী|কোন|কে|কোনটা"),
    "as": dict(which="কোন", num="কিমান|কেইটা", year="কেতিয়া|কোন চনত", clock="কেতিয়া|কেই বজাত", what="কি|কোন|কোনে|কোনটো"),
    "or": dict(which="କେଉଁ", num="କେତେ|କେତୋଟି", year="କେବେ|କେଉଁ ବର୍ଷ", clock="କେତେବେଳେ|କେତେଟାରେ", what="କ'ଣ|କେଉଁ|କିଏ|କଣ"),
    "ne": dict(which="कुन", num="कति", year="कहिले|कुन सालमा|कुन वर्ष", clock="कहिले|कति बजे", what="के|कुन|को"),
    "ta": dict(which="எந்த", num="எத்தனை|எவ்வளவு", year="எப்போது|எந்த ஆண்டு", clock="எப்போது|எத்தனை மணிக்கு", what="என்ன|எது|யார்|எந்த"),
    "te": dict(which="ఏ", num="ఎన్ని|ఎంత", year="ఎప్పుడు|ఏ సంవత్సరంలో", clock="ఎప్పుడు|ఎన్ని గంటలకు", what="ఏమిటి|ఏది|ఎవరు|ఏ"),
    "kn": dict(which="ಯಾವ", num="ಎಷ್ಟು", year="ಯಾವಾಗ|ಯಾವ ವರ್ಷ", clock="ಯಾವಾಗ|ಎಷ್ಟು ಗಂಟೆಗೆ", what="ಏನು|ಯಾವುದು|ಯಾರು|ಯಾವ"),
    "ml": dict(which="ഏത്|ഏതു", num="എത്ര", year="എപ്പോൾ|ഏതു വർഷം", clock="എപ്പോൾ|എത്ര മണിക്ക്", what="എന്ത്|ഏത്|ആര്|എന്താണ്"),
    "en": dict(which="which|what", num="how many|how much|what number", year="when|in which year|in what year", clock="when|at what time", what="what|which|who|what exactly"),
}

# Rules on the words of a sentence: (the marker, question words). For postpositional languages the marker is the
# following word and the question words replace span and marker; for the others it is the span's own ending.
MARKERS = {
    "hi": {"ने": "किसने", "में": "कहाँ|किसमें|कब|किस में", "को": "किसे|किसको|किस को", "से": "किससे|कहाँ से|कैसे", "पर": "कहाँ|किस पर", "के लिए": "किसलिए|किसके लिए", "का": "किसका", "की": "किसकी", "के": "किसके", "तक": "कब तक|कहाँ तक"},
    "ur": {"نے": "کس نے", "میں": "کہاں|کس میں|کب", "کو": "کسے|کس کو", "سے": "کس سے|کہاں سے|کیسے", "پر": "کہاں|کس پر", "کے لیے": "کس لیے|کس کے لیے", "کا": "کس کا", "کی": "کس کی", "کے": "کس کے", "تک": "کب تک|کہاں تک"},
    "pa": {"ਨੇ": "ਕਿਸ ਨੇ|ਕੀਹਨੇ", "ਵਿੱਚ": "ਕਿੱਥੇ|ਕਿਸ ਵਿੱਚ|ਕਦੋਂ", "ਵਿਚ": "ਕਿੱਥੇ|ਕਿਸ ਵਿਚ", "ਨੂੰ": "ਕਿਸ ਨੂੰ|ਕੀਹਨੂੰ", "ਤੋਂ": "ਕਿਸ ਤੋਂ|ਕਿੱਥੋਂ", "ਨਾਲ": "ਕਿਸ ਨਾਲ|ਕਿਵੇਂ", "ਲਈ": "ਕਿਸ ਲਈ|ਕਾਹਦੇ ਲਈ", "ਦਾ": "ਕਿਸ ਦਾ", "ਦੀ": "ਕਿਸ ਦੀ", "ਦੇ": "ਕਿਸ ਦੇ", "ਤੇ": "ਕਿੱਥੇ", "ਤੱਕ": "ਕਦੋਂ ਤੱਕ"},
    "mr": {"मध्ये$|ात$|ेत$|ीत$|वर$": "कुठे|कशात|कोणत्या ठिकाणी", "ने$|नी$": "कोणी|कशाने", "ला$|ना$": "कोणाला|कशाला", "साठी$": "कशासाठी|कोणासाठी", "मुळे$": "कशामुळे|का", "हून$|पासून$": "कुठून|कशापासून", "चा$|ची$|चे$": "कोणाचा|कशाचे|कोणाची"},
    "gu": {"માં$|પર$": "ક્યાં|શેમાં|કઈ જગ્યાએ", "એ$": "કોણે", "ને$": "કોને|શેને", "થી$": "ક્યાંથી|શેનાથી", "માટે$": "શેના માટે|કોના માટે", "નો$|ની$|નું$|ના$": "કોનો|કોની|શેનું"},
    "bn": {"ে$|তে$|য়$": "কোথায়|কীসে|কখন", "কে$": "কাকে", "র$|ের$": "কার|কীসের|কোন", "থেকে$": "কোথা থেকে"},
    "as": {"ত$": "ক’ত|কিহত|কেতিয়া", "ক$": "কাক", "ৰ$": "কাৰ|কিহৰ", "এ$|ই$": "কোনে", "লৈ$": "ক’লৈ"},
    "or": {"ରେ$": "କେଉଁଠି|କେଉଁଠାରେ|କେଉଁଥିରେ|କେବେ", "କୁ$": "କାହାକୁ|କେଉଁଠିକି", "ର$": "କାହାର|କେଉଁଥିର", "ରୁ$": "କେଉଁଠାରୁ|କେବେଠାରୁ", "ଙ୍କୁ$": "କାହାକୁ", "ଙ୍କ$": "କାହାର"},
    "ne": {"मा$": "कहाँ|केमा|कहिले|कुन ठाउँमा", "ले$": "कसले|केले", "लाई$": "कसलाई|केलाई", "बाट$": "कहाँबाट|कसबाट", "को$|का$|की$": "कसको|केको", "देखि$": "कहिलेदेखि|कहाँदेखि", "सँग$": "कोसँग"},
    "ta": {"ில்$|த்தில்$": "எங்கே|எங்கு|எதில்|எப்போது", "க்கு$|ுக்கு$": "யாருக்கு|எதற்கு|எங்கே", "ை$": "எதை|யாரை", "ால்$": "எதனால்|யாரால்", "ின்$": "எதன்|யாருடைய", "ுடன்$": "யாருடன்|எதனுடன்"},
    "te": {"లో$": "ఎక్కడ|దేనిలో|ఎప్పుడు", "కు$|కి$": "ఎవరికి|దేనికి|ఎక్కడికి", "ను$|ని$": "ఎవరిని|దేన్ని", "తో$": "ఎవరితో|దేనితో", "పై$": "దేనిపై|ఎక్కడ", "నుంచి$|నుండి$": "ఎక్కడి నుంచి"},
    "kn": {"ಲ್ಲಿ$": "ಎಲ್ಲಿ|ಯಾವುದರಲ್ಲಿ|ಯಾವಾಗ", "ಗೆ$|ಕ್ಕೆ$": "ಯಾರಿಗೆ|ಯಾವುದಕ್ಕೆ|ಎಲ್ಲಿಗೆ", "ನ್ನು$": "ಯಾರನ್ನು|ಯಾವುದನ್ನು|ಏನನ್ನು", "ದಿಂದ$|ಯಿಂದ$|ನಿಂದ$": "ಎಲ್ಲಿಂದ|ಯಾವುದರಿಂದ|ಯಾರಿಂದ", "ನ$|ದ$|ಯ$": "ಯಾರ|ಯಾವುದರ"},
    "ml": {"ിൽ$|ത്ത്$": "എവിടെ|എവിടെയാണ്|എന്തിൽ|എപ്പോൾ", "ന്$|ക്ക്$": "ആർക്ക്|എന്തിന്", "െ$": "ആരെ|എന്തിനെ", "ാൽ$": "എന്തിനാൽ|ആരാൽ", "ന്റെ$|ുടെ$": "ആരുടെ|എന്തിന്റെ", "ൽ$": "എവിടെ|എപ്പോൾ"},
    "en": {"in": "where|in what|when", "at": "where|when", "by": "by whom|by what", "for": "for what|why|for whom", "to": "to whom|where|to what", "from": "from where|from whom", "with": "with what|with whom", "on": "when|on what|where", "of": "of what|whose", "because": "why"},
}
FOLLOWING = {"hi", "ur", "pa"}
PRECEDING = {"en"}
WORDS = {lang: {k: v.split("|") for k, v in w.items()} for lang, w in WORDS.items()}
MARKERS = {
    lang: [(key.split(" ") if lang in FOLLOWING | PRECEDING else re.compile(key), value.split("|")) for key, value in table.items()]
    for lang, table in MARKERS.items()
}


# Case endings put on a name in a question, and vowel signs a name may lose or change at its end.
ENDINGS = {
    "mr": "चा|ची|चे|ला|ाचा|ाची|ाला|वर", "gu": "નો|ની|નું|ના|ને", "bn": "র|ের|টা|টার|এর", "as": "ৰ|খন|টো|ক", "or": "ର|ଟି|କୁ|ଟା",
    "ne": "को|ले|लाई|मा", "ta": "இன்|யின்|க்கு|ின்|ை|ஐ", "te": "ల|కు|కి|ను|లు", "kn": "ನ|ದ|ಗೆ|ಯ|ಕ್ಕೆ", "ml": "ന്റെ|യുടെ|ക്ക്|ിന്റെ|ിന്",
}
ENDINGS = {lang: v.split("|") for lang, v in ENDINGS.items()}
VOWEL_SIGN = re.compile("[\u093e-\u094c\u09be-\u09cc\u0a3e-\u0a4c\u0abe-\u0acc\u0b3e-\u0b4c\u0bbe-\u0bcd\u0c3e-\u0c4d\u0cbe-\u0ccd\u0d3e-\u0d4d]$")


def spoken(rng, lang, name):
    """A name as a question may put it: one word of it, with a case ending, or with its last vowel sign changed."""
    words = name.split()
    if len(words) > 1 and rng.random() < 0.2:
        name = rng.choice(words) if len(max(words, key=len)) > 3 else name
    x = rng.random()
    if x < 0.12 and lang in ENDINGS:
        return name + rng.choice(ENDINGS[lang])
    if x < 0.18 and len(name) > 4 and VOWEL_SIGN.search(name):
        return name[:-1] + rng.choice(("", "\u0947" if lang in ("hi", "mr", "ne") else ""))
    return name


def synonyms():
    """{language: {word: [words used for the same in speech]}}"""
    table = {}
    for line in (Path(__file__).parent / "grammar" / "synonyms.txt").read_text(encoding="utf-8").splitlines():
        lang, groups = line.split(" ", 1)
        table[lang] = {}
        for group in groups.split("; "):
            words = group.split("=")
            table[lang].update({w: [o for o in words if o != w] for w in words})
    return table


SYNONYMS = synonyms()


def reworded(rng, lang, question):
    """The question with some words replaced by synonyms, case endings kept."""
    known, out = SYNONYMS[lang], []
    for word in question.split(" "):
        stem = next((word[:n] for n in range(len(word), max(2, len(word) - 3) - 1, -1) if word[:n] in known), None)
        out.append(rng.choice(known[stem]) + word[len(stem):] if stem and rng.random() < 0.3 else word)
    return " ".join(out)


def dressed(rng, lang, question, share=0.35):
    """The question with a lead-in, a tail and an end mark, or without them, and with synonyms at times."""
    question = reworded(rng, lang, question)
    if rng.random() < share * 0.5:
        question = rng.choice(LEAD[lang]) + question
    if rng.random() < share * 0.35:
        question = question + rng.choice(TAIL[lang])
    elif rng.random() < 0.65:
        question = question.rstrip("?؟।.۔ ") + rng.choice((QM.get(lang, "?"),) * 9 + (" " + QM.get(lang, "?"),))
    if lang == "en" and rng.random() < 0.4:
        question = question[0].upper() + question[1:]
    return question
