"""Ruling a loss out: bounds that hold what they promise, and verdicts that need proof."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.evaluation.loss import items_to_prove, kept, loss_bounds


def test_two_models_that_answer_alike_are_not_shown_to_differ() -> None:
    """A bootstrap of zeros would say [0, 0]; two independent intervals ±6 points. The truth: z²/(n + z²)."""
    low, high = loss_bounds(0, 0, 360)
    assert -low == pytest.approx(2.7055 / (360 + 2.7055), abs=1e-4) and high == pytest.approx(-low)
    assert kept((low, high), 0.02) == "kept" and kept(loss_bounds(0, 0, 20), 0.05) == "unproven"


@given(st.integers(5, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_bounds_hold_the_estimate_and_mirror(counts: tuple[int, int, int]) -> None:
    n, b, c = counts
    if b + c > n:
        return
    low, high = loss_bounds(b, c, n)
    assert -1 <= low <= (b - c) / n <= high <= 1
    other = loss_bounds(c, b, n)
    assert low == pytest.approx(-other[1], abs=1e-6) and high == pytest.approx(-other[0], abs=1e-6)
    assert loss_bounds(b, c, n, level=0.99)[0] <= low + 1e-9


@pytest.mark.parametrize(("n", "gain", "loss"), [(60, 0.02, 0.07), (360, 0.02, 0.04), (360, 0.005, 0.025)])
def test_a_true_loss_of_the_margin_is_waved_through_in_one_of_twenty(n: int, gain: float, loss: float) -> None:
    """The promise: a model that truly lost the margin passes with at most 5 % (simulated, three standard errors)."""
    rng = np.random.default_rng(3)
    draws = rng.multinomial(n, [gain, loss, 1 - gain - loss], size=3000)
    known: dict[tuple[int, int], bool] = {}
    passed = 0
    for b, c, _ in draws.tolist():
        if (b, c) not in known:
            known[b, c] = kept(loss_bounds(b, c, n), loss - gain) == "kept"
        passed += known[b, c]
    assert passed / 3000 <= 0.05 + 3 * (0.05 * 0.95 / 3000) ** 0.5


def test_a_clear_loss_is_called_one() -> None:
    assert kept(loss_bounds(2, 30, 360), 0.02) == "lost"
    assert kept(loss_bounds(8, 9, 360), 0.02) == "unproven"
    assert kept(loss_bounds(3, 2, 360), 0.02) == "kept"


def test_how_many_questions_would_do() -> None:
    needed = items_to_prove(7, 7, 360, 0.02)
    assert 400 < needed < 1000
    churn = 14 / 360
    rng = np.random.default_rng(5)
    draws = rng.multinomial(needed, [churn / 2, churn / 2, 1 - churn], size=400).tolist()
    proven = np.mean([kept(loss_bounds(b, c, needed), 0.02) == "kept" for b, c, _ in draws])
    assert proven > 0.7, "about the 80 % that were promised"
    assert items_to_prove(0, 0, 100, 0.05) == pytest.approx(2.7055 * 19, abs=1)
