"""A name that nothing has is refused in one way, wherever it was written."""

import pytest

from danlu.core.errors import RecipeError
from danlu.core.messages import set_language
from danlu.core.shelf import Shelf, unknown_name

SHELF: Shelf[object] = Shelf("metrics", {"exact": "no.such:thing", "choice": "no.such:thing"})


def test_a_slip_is_answered_with_the_nearest_name_and_all_names() -> None:
    with pytest.raises(RecipeError) as caught:
        SHELF.load("exakt", where="evaluation.metric")
    assert caught.value.text == "evaluation.metric: 'exakt' is not among the metrics"
    assert caught.value.fix == "did you mean exact? known: choice, exact"
    set_language("zh")
    assert caught.value.fix == "是不是想写 exact？可用：choice, exact"


def test_nothing_is_guessed_where_nothing_is_near() -> None:
    """It said "nearest: -"."""
    error = unknown_name("zzzz", SHELF.names(), of="metrics", where="--metric")
    assert error.fix == "known: choice, exact"
    assert error.to_json() == {
        "error": "core.unknown_name", "where": "--metric", "message": "--metric: 'zzzz' is not among the metrics",
        "fix": "known: choice, exact",
    }  # fmt: skip


def test_any_error_may_say_what_was_meant() -> None:
    error = RecipeError("data.unknown_part", given="qestion", nearest="question", known="question, answer")
    assert error.fix.startswith("did you mean question? ")
