"""Rows that hold a test's questions or answers: found in any form, and told by the name that all machines know."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import pytest
from cleaners_kit import PROSE, chat, document

from danlu.core.errors import DataError
from danlu.data.cleaners import Batch, build
from danlu.data.cleaners.contaminated import Contaminated
from danlu.data.sample import Sample
from danlu.evaluation.probes import suite_path
from danlu.recipe.cleaning import CleaningSection
from progress_kit import Notes


def test_rows_that_hold_evaluation_items() -> None:
    draw = random.Random(0)
    text = "".join(chr(0x4E00 + draw.randrange(3000)) for _ in range(80))
    items = [chat(text, "答案甲"), chat("中国的首都是哪座城市呢", "北京"), chat("你是谁", "助手")]
    rule = Contaminated(items)
    rows: list[Sample] = [
        document("前言。" + " ".join(text) + "后记。"),  # spaced out
        document("前言。" + text[:60] + "后记。"),
        document("前言。" + text[:30] + "后记。"),
        chat("请问：中国的首都是哪座城市呢？", "北京。"),
        chat("你是谁？", "我是张三。"),
        chat("你是谁的孩子", "我是张三。"),
        document(PROSE),
    ]
    found = rule.judge(Batch(rows))
    assert sorted(found) == [0, 1, 3, 4] and found[0].values == {"share": 100, "item": "c.jsonl:1"}
    again = pickle.loads(pickle.dumps(rule))
    assert again.judge(Batch(rows)) == found and again.key() == rule.key() != Contaminated(items[:1]).key()


def test_words_of_a_form_are_no_contamination() -> None:
    form = "请根据下列选项选出最符合题意的一项，并且只回答选项前的字母，不要作任何解释。"
    items = [chat(form + "".join(chr(0x4E00 + 37 * number + at) for at in range(20)), "A") for number in range(40)]
    assert Contaminated(items).judge(Batch([chat(form + "水的化学式是什么？", "B"), items[7]])).keys() == {1}


def test_evaluation_sets_of_the_recipe_are_read(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "eval.jsonl"
    path.write_text('{"instruction": "报销差旅费需要在几天之内提交单据？", "output": "十五天"}\n', "utf-8")
    clean = build(CleaningSection(evaluation_sets=(str(path),), contaminated="flag"))[-1]
    (outcome,) = clean([chat("报销差旅费需要在几天之内提交单据", "十五天内。")])
    assert outcome[0] is not None and [fate.reason for fate in outcome[1]] == ["contaminated"]


def test_an_evaluation_set_of_which_nothing_can_be_read_is_an_error(tmp_path: Path) -> None:
    """Five rows of unknown columns protected nothing, and nobody was told."""
    path = tmp_path / "eval.jsonl"
    path.write_text('{"frage": "报销要几天？", "antwort": "15"}\n' * 5, "utf-8")
    good = tmp_path / "good.jsonl"
    good.write_text('{"instruction": "报销差旅费需要在几天之内提交单据？", "output": "十五天"}\n', "utf-8")
    for section, questions in (
        (CleaningSection(evaluation_sets=(str(good), str(path))), []),
        (CleaningSection(), [str(path)]),
    ):
        with pytest.raises(DataError) as caught:
            build(section, questions)
        assert caught.value.key == "data.no_items" and caught.value.where == str(path)
        assert "5" in caught.value.text and f"{path}:1" in caught.value.text
    build(CleaningSection(evaluation_sets=(str(path),), contaminated="keep"))


def test_items_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_text('{"question": "报销要几天？", "answer": "15"}\n{"a b": 1}\n{"a c": 1}\n', "utf-8")
    told = Notes()
    build(CleaningSection(evaluation_sets=(str(path),)), progress=told)
    (note,) = told.said
    assert "2" in note and "3" in note and f"{path}:2" in note


def test_pieces_of_a_short_question_that_stand_all_over_a_book_are_not_the_question() -> None:
    """ "Name the largest of the world's oceans." threw out a page of an almanac, a word of it here and one there."""
    item = chat("Name the largest of the world's oceans.", "Pacific")
    words = ["He can name the first,", "name the largest city,", "the largest of all,", "gest of the wor", "one of the world",
             "the world's oldest", "in the world's oceans"]  # fmt: skip
    apart = document(" ".join(f"{word} {PROSE}" for word in words))
    near = document(PROSE + " Name the largest of the seven or so of the world's oceans. " + PROSE)
    for quick in (False, None):
        found = Contaminated([item]).judge(Batch([apart, near, item], quick=quick))
        assert sorted(found) == [1, 2]
        assert found[2].values["share"] == 100


def test_a_row_that_holds_a_probe_is_told_by_the_name_that_all_machines_know() -> None:
    path = suite_path("typo")
    clean = build(CleaningSection(), [path])[-1]
    (outcome,) = clean([chat("中国的首都是哪座城市？", "北京")])
    (fate,) = outcome[1]
    assert fate.reason == "contaminated" and fate.values["item"] == "danlu/probes/typo.jsonl:1"
    assert not any(
        rule.name == "contaminated" for rule, _ in build(CleaningSection(contaminated="keep"), [path])[-1].rules
    )  # type: ignore[attr-defined]
