"""Error bars against values that can be worked out by hand, and coverage against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from danlu.evaluation.stats import (
    bootstrap,
    compare,
    detectable_difference,
    holm,
    mcnemar,
    proportion,
    sign_flip,
    wilson,
)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),  # nothing discordant: no evidence, not a crash
        (5, 5, 1.0),
        (10, 0, 2 / 1024),
        (0, 10, 2 / 1024),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (9, 1, 2 * (1 + 10) / 1024),
        (15, 5, 2 * (1 + 20 + 190 + 1140 + 4845 + 15504) / 2**20),
    ],
)
def test_mcnemar_is_the_exact_binomial(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p, rel=1e-12)


def test_mcnemar_stays_exact_with_thousands_of_items() -> None:
    z = (2600 - 2400 - 1) / math.sqrt(5000)  # with the continuity correction
    assert mcnemar(2600, 2400) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=2e-3)


def test_wilson_against_the_worked_formula() -> None:
    # Newcombe 1998, table I: 81/263 gives 0.2553 to 0.3662; 15/148 gives 0.0624 to 0.1605; 0/20 gives 0 to 0.1611.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_holm_steps_down_and_keeps_order() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({}) == {}


def test_sign_flip_enumerates_few_groups() -> None:
    # Five groups, all up: 2 of 32 sign patterns are as extreme.
    assert sign_flip([1.0] * 10, [i // 2 for i in range(10)]) == pytest.approx(2 / 32)
    assert sign_flip([0.0] * 4, range(4)) == 1.0


def test_the_bootstrap_is_repeatable_and_near_the_normal_interval() -> None:
    values = (np.random.default_rng(0).random(400) < 0.3).astype(float).tolist()
    one, other = bootstrap(values, seed=4), bootstrap(values, seed=4)
    assert one == other
    spread = 1.96 * math.sqrt(one.value * (1 - one.value) / 400)
    assert one.low == pytest.approx(one.value - spread, abs=0.006)
    assert one.high == pytest.approx(one.value + spread, abs=0.006)


def test_ten_questions_on_one_document_are_not_ten_independent_ones() -> None:
    right = [group < 5 for group in range(10) for _ in range(10)]
    groups = [group for group in range(10) for _ in range(10)]
    naive, clustered = proportion(right), proportion(right, groups)
    assert clustered.high - clustered.low > 2 * (naive.high - naive.low)
    assert clustered.num_groups == 10 and clustered.num_items == 100


def test_all_right_is_still_uncertain() -> None:
    perfect = proportion([True] * 20)
    assert perfect.high == 1.0 and perfect.low == pytest.approx(0.8389, abs=5e-4)
    gain = compare([False] * 20, [True] * 20)
    assert gain.estimate.value == 1.0 and gain.estimate.low < 0.8 and gain.direction == "better"


def test_equal_answers_are_no_evidence() -> None:
    same = compare([True, False] * 10, [True, False] * 10)
    assert (same.p, same.direction, same.num_gained, same.num_lost) == (1.0, "no_evidence", 0, 0)
    assert same.estimate.low < 0 < same.estimate.high


def test_detectable_difference_solves_its_own_equation() -> None:
    found = detectable_difference(200, churn_ratio=0.2)
    psi = 0.2 + found
    needed = (1.959964 * math.sqrt(psi) + 0.841621 * math.sqrt(psi - found**2)) ** 2 / found**2
    assert needed == pytest.approx(200, rel=1e-4)
    assert detectable_difference(800, churn_ratio=0.2) < found
    assert detectable_difference(200, churn_ratio=0.0) < found
    assert detectable_difference(2, churn_ratio=0.2) == 1.0


def test_clustered_intervals_cover_and_naive_ones_do_not() -> None:
    """40 documents with 8 questions each, answers alike within a document; the true share is 0.6."""
    rng = np.random.default_rng(11)
    groups = np.repeat(np.arange(40), 8)
    covered = {"wilson": 0, "naive": 0}
    num_trials = 400
    for _ in range(num_trials):
        level = rng.beta(0.6 * 1.2, 0.4 * 1.2, size=40)  # strong likeness within a document
        right = (rng.random(320) < level[groups]).tolist()
        for name, estimate in (("wilson", proportion(right, groups.tolist())), ("naive", proportion(right))):
            covered[name] += estimate.low <= 0.6 <= estimate.high
    assert covered["wilson"] / num_trials > 0.92
    assert covered["naive"] / num_trials < 0.80


def test_the_clustered_bootstrap_of_a_difference_covers_its_truth() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(12), 5)
    hits, num_trials = 0, 200
    for _ in range(num_trials):
        shift = rng.normal(0.2, 0.3, size=12)
        estimate = bootstrap((shift[groups] + rng.normal(0, 0.1, size=60)).tolist(), groups.tolist(), seed=1)
        hits += estimate.low <= 0.2 <= estimate.high
    assert hits / num_trials > 0.91  # few groups: plain percentiles reach about 0.89
