"""The generator: answers stand in their context, splits do not leak, measuring sets stay out of training."""
import itertools
import json
import random
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer

HERE = Path(__file__).parents[1]
sys.path.insert(0, str(HERE))
import clauses
import cloze
import documents
import grammar
import records
from batches import ANSWER, DROPOUT, ROW, Batches, Packer, Recorded, encoded, finished, pieces, record, tokens
from names import KINDS, load_names
from records_wording import LANGS, NOTGIVEN
from text import load_text
from tokenizer import BOS, EOS
from values import in_split

DRAWS = 600    # documents per source


@pytest.fixture(scope="module")
def texts():
    return load_text()


def natural_rows(name="natural-dev"):
    return [json.loads(line) for line in open(HERE / f"{name}.jsonl", encoding="utf-8")]


@pytest.mark.parametrize("source", ["records", "scene", "clause", "cloze", "long"])
def test_every_answer_stands_in_its_context_or_is_not_given(texts, source):
    rng = random.Random(11)
    kinds = set()
    for i in range(DRAWS):
        lang, context, questions = documents.draw(rng, texts, LANGS[i % len(LANGS)], source)
        assert unicodedata.is_normalized("NFC", context) and questions, (lang, context)
        for kind, question, answer in questions:
            none = answer == unicodedata.normalize("NFC", NOTGIVEN[lang])
            kinds.add(none)
            assert question and (none or answer in context), (lang, kind, question, answer)
            assert none == ("none" in kind.split("/")[1:]), (lang, kind, question, answer)
    assert kinds == {True, False}


@pytest.mark.parametrize("draw, starts", [(0.0, {"रमन": 0, "वेंकट": 0, "मेला": 0, "शहर": 5}), (1.0, {"रमन": 2, "वेंकट": 1, "मेला": 3, "शहर": 6})])
def test_a_phrase_keeps_rare_words_and_genitives_together(draw, starts):
    """With a draw that goes on wherever it may, and one that never does."""
    words = ["चंद्रशेखर", "वेंकट", "रमन", "मेला", "है", "बड़ा", "शहर"]
    text = SimpleNamespace(count=Counter({w: 1 for w in words}), stop={"है"})
    rng = SimpleNamespace(random=lambda: draw)
    assert {w: cloze.phrase_start(rng, words, words.index(w), text) for w in starts} == starts
    # A genitive joins two words, and a phrase does not begin with it.
    words = ["नदी", "के", "तट"]
    assert cloze.phrase_start(rng, words, 2, text) == (2 if draw == 0.0 else 0)


def test_a_question_from_prose_asks_for_a_telling_word(texts):
    rng = random.Random(3)
    for lang in ("hi", "ta", "en"):
        text, found = texts[lang], 0
        for _ in range(200):
            for sentence in cloze.passage(rng, text, 400):
                words = [cloze.strip_edge(w) for w in sentence.split()]
                span = cloze.choose_span(rng, lang, words, text)
                if span:
                    found += 1
                    asked = words[span[0]:span[1]]
                    assert asked and any(text.count[w] <= 150 or cloze.numeric(w) for w in asked), (sentence, asked)
        assert found > 200


def test_a_question_about_several_scenes_names_its_own():
    price, event = "Rice costs 20 rupees, salt 9.", "The wheat fair is on Monday. Tea costs 9."
    right = [(price, "price/p", "what does Rice cost", "20 rupees"), (event, "event/when", "when is the fair", "Monday")]
    wrong = [(price, "price/p", "what does wheat cost", "20 rupees"), (price, "price/p", "cost of salt", "9"),
             (event, "event/when", "when is it", "Monday"), (event, "event/fee/none", "fee of the fair", "not given")]
    assert documents.named(right + wrong, f"{price} {event}") == right


def test_a_context_may_lose_all_that_is_asked_for(texts, monkeypatch):
    monkeypatch.setattr(grammar.Draw, "context", lambda self, sentences: self.flat(sentences[0], self.slot, self.spans.__setitem__))
    for i in range(5 * DRAWS):
        context, asked = grammar.sample(random.Random(i), LANGS[i % len(LANGS)], 3, texts)
        assert all(answer in context for kind, _, answer in asked if "none" not in kind)


def test_what_stops_a_worker_stops_the_training():
    batches = Batches("no-such-tokenizer.json", 1, 2, 1, documents.MIX)
    with pytest.raises(RuntimeError, match="a worker has stopped"):
        next(iter(batches))
    batches.close()


def test_a_killed_worker_stops_the_training():
    batches = Batches(str(HERE / "tokenizer.json"), 1, 2, 2, documents.MIX)
    batches.workers[0].kill()
    batches.workers[0].join()
    with pytest.raises(RuntimeError, match="exit status -9"):
        next(iter(batches))
    batches.close()


def test_dropout_splits_words_anew_and_leaves_answers_alone(monkeypatch):
    tokenizer, dropping = (Tokenizer.from_file(str(HERE / "tokenizer.json")) for _ in range(2))
    dropping.model.dropout = DROPOUT
    drawn = [("hi", "राशन की दुकान मंगलवार को खुलती है।" * 6, [("", "दुकान किस दिन खुलेगी?", "मंगलवार"), ("", "दुकान का पता?", "नहीं दिया गया")])]
    made = {}
    for share in (0, 1):
        monkeypatch.setattr("batches.DROPPED", share)
        (made[share],) = encoded(random.Random(1), tokenizer, dropping, drawn)
    assert tokenizer.decode(made[0][0]) == tokenizer.decode(made[1][0]) and made[0][0] != made[1][0]
    answers = [[i for i, kind in zip(*made[share]) if kind == ANSWER] for share in (0, 1)]
    assert answers[0] == answers[1] and answers[0]


def test_names_of_a_language_belong_to_one_split():
    for lang, table in load_names().items():
        split = [{x for kind in KINDS for x in table[kind][s]} for s in ("train", "eval", "test")]
        assert not split[0] & split[1] and not split[0] & split[2] and not split[1] & split[2], lang


def test_numbers_and_invented_names_of_records_belong_to_one_split(texts):
    """No number of an eval record is ever drawn for a training record."""
    seen = {"train": set(), "eval": set()}
    for split in seen:
        rng = random.Random(5)
        for i in range(1500):
            context, _ = records.sample(rng, "en", split, 6, 1, texts)
            seen[split] |= set(re.findall(r"\d+(?:[.:]\d+)*", context.replace(",", "")))
    # Two-part cells ("12.50", "12,34,567") are split as a whole, so only plain numbers are compared.
    plain = lambda numbers: {n for n in numbers if n.isdigit()}
    assert len(plain(seen["eval"])) > 100 and not plain(seen["train"]) & plain(seen["eval"])


def test_numbers_of_scenes_are_of_the_train_split():
    rng = random.Random(4)
    drawn = {grammar.VALUES[kind](rng, "en").replace(",", "") for kind in ("n", "num", "big") for _ in range(1500)}
    large = {n for n in drawn if int(n) >= 100}
    assert len(large) > 1000 and all(in_split("#" + n, "train") for n in large)


def test_held_out_wordings_are_not_asked_in_training(texts):
    """Two wordings may give the same question once their names are filled in, but seldom."""
    rng = random.Random(3)
    for lang in LANGS:
        train = {q for _ in range(150) for _, q, _ in grammar.sample(rng, lang, 4, texts, "train")[1]}
        held = {q for _ in range(150) for _, q, _ in grammar.sample(rng, lang, 4, texts, "dev")[1]}
        assert train and held and len(train & held) <= 0.02 * len(held), (lang, train & held)


def test_every_grammar_line_can_be_drawn(texts):
    rng = random.Random(9)
    for lang in LANGS:
        assert len(grammar.GRAMMAR[lang].scenes) == 12 and len(grammar.CLAUSES[lang].passages) >= 30, lang
        assert len(grammar.GRAMMAR[lang].notes) >= 200, lang
        for name, scene in [*grammar.GRAMMAR[lang].scenes.items(), *grammar.GRAMMAR[lang].notes.items()]:
            for context in scene.contexts:
                assert grammar.Draw(rng, lang, texts).context(context), (lang, name)
                whole = grammar.Draw(rng, lang, texts)     # no sentence left out
                assert all(whole.flat(s, whole.slot, whole.spans.__setitem__) for s in context) and whole.spans, (lang, name)
            labels = {re.fullmatch(r"([a-z]+)\d?", label).group(1) for c in scene.contexts for s in c for label in spans_of(s)}
            assert set(scene.questions) <= labels - {"none"}, (lang, name, set(scene.questions) - labels)
        for passage in grammar.CLAUSES[lang].passages:
            drawn = clauses.Drawn(grammar.Draw(rng, lang, texts), passage)
            assert drawn.text()
            numbers = {n for s in drawn.sentences for n in s.numbers.values()}
            assert set(passage.questions) <= numbers == set(range(1, len(numbers) + 1)), (lang, drawn.text())
            for number, wordings in passage.questions.items():
                for wording in wordings:
                    assert drawn.filled(drawn.draw.flat(wording, lambda name: "{" + name + "}"))


def test_a_name_that_a_context_holds_is_not_asked_for_as_another(texts, monkeypatch):
    monkeypatch.setattr(grammar.Draw, "filler", lambda self, kind: "Zqx")
    for lang in LANGS:
        rng, kinds = random.Random(2), {"": set(), " Zqx": set()}
        for passage in grammar.CLAUSES[lang].passages[:10]:
            draw = grammar.Draw(rng, lang, texts)
            draw.slot = lambda name: draw.fillers.setdefault(name, name)
            drawn = clauses.Drawn(draw, passage)
            for more, found in kinds.items():
                found |= {made[0] for _ in range(100) if (made := drawn.ask(drawn.text() + more, "train"))}
        assert "clause/none/name" in kinds[""] and len(kinds[" Zqx"]) > 2 and "clause/none/name" not in kinds[" Zqx"], lang


def wordings(sequence):
    """All texts that a pattern without spans may give, its slots as they are written."""
    texts = [""]
    for part in sequence:
        branches = ([part] if isinstance(part, str) else ["{" + part[1] + "}"] if part[0] == "slot"
                    else [text for branch in part[1] for text in wordings(branch)])
        texts = [text + branch for text in texts for branch in branches]
    return texts


def test_what_the_context_tells_is_never_not_given():
    """Labels that share a wording are near each other, and what every context of a kind of scene tells is labelled."""
    for lang in LANGS:
        for name, scene in grammar.GRAMMAR[lang].scenes.items():
            asked = {label: {w for q in questions for w in wordings(q)} for label, questions in scene.questions.items()}
            for a, b in itertools.permutations(asked, 2):
                assert not asked[a] & asked[b] or b in grammar.NEAR.get(a, ()), (lang, name, a, b)
        for name, label in (("event", "what"), ("outage", "where")):
            for first, *_ in grammar.GRAMMAR[lang].scenes[name].contexts:
                assert label in spans_of(first), (lang, name)


def spans_of(sequence):
    for part in sequence:
        if not isinstance(part, str) and part[0] != "slot":
            if part[0] == "span":
                yield part[1]
            for branch in part[-1]:
                yield from spans_of(branch)


def test_measuring_rows_are_not_in_the_training_text(texts):
    rows = natural_rows() + natural_rows("natural-test") + natural_rows("blind-test")
    for lang in LANGS:
        own = {r["context"] for r in rows if r["lang"] == lang}
        lines = "\n".join(line for block in texts[lang].blocks for line in block)
        assert own and not any(c in lines for c in own), lang


def test_natural_rows_are_well_formed():
    rows = natural_rows()
    for lang in LANGS:
        own = [r for r in rows if r["lang"] == lang]
        assert len(own) >= 20, lang
        assert sum(r["answer"] == NOTGIVEN[lang] for r in own) >= 4, lang
        for r in own:
            assert r["answer"] == NOTGIVEN[lang] or any(a in r["context"] for a in [r["answer"], *r["accept"]]), r


def test_long_rows_are_long_and_well_formed():
    rows, tokenizer = natural_rows("long-dev"), Tokenizer.from_file(str(HERE / "tokenizer.json"))
    for lang in LANGS:
        own = [r for r in rows if r["lang"] == lang]
        assert len(own) == 11, lang
        for r in own:
            assert 700 <= len(tokenizer.encode(r["context"], add_special_tokens=False).ids) <= 1000
            assert r["answer"] == NOTGIVEN[lang] if r["kind"] == "none" else r["answer"] in r["context"], r


def test_rows_hold_whole_documents():
    packer = Packer(open_rows=4)
    for n in (700, 300, 900, 20, 600, 1000, 200):
        packer.add([BOS] + [9] * (n - 2) + [EOS], [0] + [1] * (n - 1))
    for row in packer.rows + packer.full:
        assert len(row[0]) == len(row[1]) <= ROW and row[0][0] == BOS and row[0].count(BOS) == row[0].count(EOS)


def test_recorded_batches_are_read_in_order_and_then_again(tmp_path):
    made = [(np.full((2, ROW), i, np.uint16), np.full((2, ROW), i % 3, np.uint8)) for i in range(300, 305)]
    record(tmp_path / "rows", len(made), made)
    assert finished(tmp_path / "rows").exists()
    reader = Recorded(tmp_path / "rows", 2, first=2)
    read = [batch for _, batch in zip(range(5), reader)]
    for (ids, classes), i in zip(read, (2, 3, 4, 2, 3)):
        assert (ids == made[i][0]).all() and (classes == made[i][1]).all()


def test_a_recording_that_is_read_through_goes_on_where_it_would_be(tmp_path):
    record(tmp_path / "rows", 5, [(np.full((2, ROW), i, np.uint16), np.zeros((2, ROW), np.uint8)) for i in range(5)])
    read = [int(ids[0, 0]) for _, (ids, _) in zip(range(4), Recorded(tmp_path / "rows", 2, first=2, read=7))]
    assert read == [3, 4, 2, 3]
    with pytest.raises(ValueError, match="holds 5 batches"):
        next(iter(Recorded(tmp_path / "rows", 2, first=5)))


def test_an_unfinished_recording_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(Recorded, "PATIENCE", 0.1)
    (tmp_path / "rows").write_bytes(bytes(2 * ROW * 3 + 100))
    reader = iter(Recorded(tmp_path / "rows", 2))
    next(reader)
    with pytest.raises(TimeoutError):
        next(reader)


def test_token_classes_follow_the_prompt_format():
    context, questions = "c", [("k", "q", "a")]
    assert pieces(context, questions) == ["c", "q", "a"]
    document, classes = tokens([[10, 11], [12], [13, 14]], True)
    assert document == [1, 3, 10, 11, 4, 12, 5, 13, 14, 2]
    assert classes == [0, 1, 1, 1, 1, 1, 1, 2, 2, 2]
