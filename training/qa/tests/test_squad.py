"""SQuAD JSON becomes rows: several answers, repeated ones, and questions without one."""
import copy
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from records_wording import NOTGIVEN
from squad import rows

SQUAD = {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "गंगा हिमालय से निकलती है। इसकी लंबाई 2,525 किमी है।", "qas": [
    {"id": "1", "question": "गंगा कहाँ से निकलती है?", "answers": [
        {"text": "हिमालय", "answer_start": 5}, {"text": "हिमालय से", "answer_start": 5}, {"text": "हिमालय", "answer_start": 5}]},
    {"id": "2", "question": "इसे किसने खोजा?", "answers": [], "is_impossible": True}]}]}]}


def test_rows():
    first, second = rows(SQUAD, "hi")
    assert first == {"lang": "hi", "kind": "span", "context": SQUAD["data"][0]["paragraphs"][0]["context"],
                     "question": "गंगा कहाँ से निकलती है?", "answer": "हिमालय", "accept": ["हिमालय से"]}
    assert second["kind"] == "none" and second["answer"] == NOTGIVEN["hi"] and second["accept"] == []


def test_a_question_without_an_answer_must_be_marked():
    squad = copy.deepcopy(SQUAD)
    del squad["data"][0]["paragraphs"][0]["qas"][1]["is_impossible"]
    with pytest.raises(ValueError, match="खोजा"):
        list(rows(squad, "hi"))
