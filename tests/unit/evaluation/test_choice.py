"""Options read from answers as models really phrase them; what is not an answer is a parse failure, not a guess."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.evaluation.items import Item, load_questions
from danlu.evaluation.metrics import METRICS
from danlu.evaluation.metrics.choice import read_choice

READ = [
    ("B", "B"), ("B.", "B"), ("(B) Paris", "B"), ("B、因为大气压", "B"), ("**B**", "B"), ("Ｂ", "B"), ("「B」", "B"),
    ("答案是 B", "B"), ("答案：B。", "B"), ("本题选D。", "D"), ("D选项正确", "D"), ("综上所述，答案为（C）。", "C"),
    ("The answer is (C).", "C"), ("**Answer:** B", "B"), ("answer: b", "B"), ("The correct option is **(B)**", "B"),
    ("I think it's C", "C"), ("C is correct because of the rule", "C"), ("Answer: $\\boxed{A}$", "A"),
    ("\\boxed{\\text{D}}", "D"), ("选项A错误，选项B正确，故选B", "B"), ("A不对；B也不对。所以选C", "C"),
    ("The answer is not A but C", "C"), ("答案不是A，而是B", "B"), ("Let me think. A is cheap. The answer is D.", "D"),
    ("a", "A"), ("b.", "B"), ("正确的是B", "B"), ("A is incorrect. B is correct.", "B"), ("我认为是B。", "B"),
    ("A、C、D 都不对，只有 B 正确", "B"), ("A and C are wrong, so B.", "B"), ("I would choose B because A is wrong.", "B"),
    ("正确选项为A、C。", "AC"), ("因此选AC", "AC"), ("A, C and D", "ACD"), ("BCD", "BCD"),
]  # fmt: skip
UNREAD = [
    "",
    "I would say Paris",
    "A good answer needs thought.",
    "The answer is a good one",
    "I",
    "A or B",
    "F = ma",
    "不知道",
    "12",
]


@pytest.mark.parametrize(("answer", "letters"), READ)
def test_the_option_taken_is_read(answer: str, letters: str) -> None:
    assert read_choice(answer) == letters


@pytest.mark.parametrize("answer", UNREAD)
def test_no_option_is_no_option(answer: str) -> None:
    assert read_choice(answer) == ""
    verdict = METRICS.load("choice")().score(answer, Item("1", (), "A"))
    assert not verdict.right and verdict.details == {"parse_failure": True}


def test_the_text_of_one_option_is_that_option() -> None:
    options = ("太湖", "青海湖", "洞庭湖")
    assert read_choice("是青海湖。", options) == "B"
    assert read_choice("青海湖或者太湖。", options) == ""
    row = {"question": "最大的湖？", "answer": "B", "match": "choice", "rules": {"options": list(options)}}
    assert METRICS.load("choice")().score("最大的是青海湖", load_questions([row]).items[0]).right


def test_several_right_options_are_all_wanted() -> None:
    item = Item("1", (), "AC")
    metric = METRICS.load("choice")()
    assert metric.score("选A和C", item).right and metric.score("C、A", item).right
    assert metric.score("A", item).value == 0.5 and not metric.score("A", item).right
    assert metric.score("ABC", item).value == 0.0
    assert metric.score("B", Item("1", (), "A", accept=("B",))).right
    assert metric.score("E", Item("1", (), "A", labels=("A", "B", "C", "D"))).details == {"parse_failure": True}


@given(st.text(max_size=60))
def test_any_text_is_read_without_failing(text: str) -> None:
    assert set(read_choice(text)) <= set("ABCDEFGH")
