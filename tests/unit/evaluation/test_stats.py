"""Error bars against values that can be worked out by hand, and coverage against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from danlu.evaluation.stats import (
    Tally,
    bootstrap,
    cohen_kappa,
    compare,
    compare_tallies,
    detectable_difference,
    detectable_mean,
    estimate_tally,
    fleiss_kappa,
    holm,
    items_needed,
    krippendorff_alpha,
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


def test_two_documents_that_agree_are_two_values_and_no_certainty() -> None:
    """A bootstrap of two has nothing to redraw and would call 0.39 to 0.41 a 95 % interval."""
    two = compare([0.0] * 6, [0.39] * 3 + [0.41] * 3, list("aaabbb"))
    assert two.low < 0.3 and two.high > 0.5 and two.direction == "no_evidence"
    apart = compare([0.0] * 6, [0.1] * 3 + [0.9] * 3, list("aaabbb"))
    assert (apart.low, apart.high) == (-1.0, 1.0)
    one = compare([0.0] * 6, [0.3, 0.4, 0.5] * 2, ["a"] * 6)
    assert one.low < one.value < one.high and one.p == 1.0 and one.direction == "no_evidence"


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


def test_scores_between_right_and_wrong_are_compared_too() -> None:
    """Several runs of an item enter as their mean: they are no more items."""
    rng = np.random.default_rng(1)
    base = rng.random(60)
    same, better = compare(base.tolist(), rng.permuted(base).tolist()), compare(base.tolist(), (base + 0.2).tolist())
    assert same.test == "sign-flip" and same.direction == "no_evidence" and same.p_mid is None
    assert better.direction == "better" and better.value == pytest.approx(0.2)
    clustered = compare(base.tolist(), (base + rng.normal(0.05, 0.3, 60)).tolist(), [i // 10 for i in range(60)])
    assert clustered.test == "cluster-sign-flip" and clustered.num_groups == 6


def test_intervals_hold_the_truth_where_hardly_any_answer_changed() -> None:
    """1 % gained, 3 % lost of 50: a bootstrap held the truth in 90 of 100 trials."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(300):
        fate = rng.random(50)
        base, tuned = (fate > 0.97).astype(float), (fate < 0.01).astype(float)
        found = compare(base.tolist(), tuned.tolist())
        held += found.low <= -0.02 <= found.high
    assert held / 300 > 0.94


def test_scores_that_all_moved_alike_are_not_certain_either() -> None:
    moved = compare([0.25] * 10, [0.5] * 10)
    assert moved.low < 0 < 0.25 < moved.high < 0.55 and moved.p == pytest.approx(2 / 1024)


def test_not_inferior_needs_the_whole_interval_above_the_margin() -> None:
    base = [True] * 90 + [False] * 10
    one_lost, ten_lost = [False, *base[1:]], [False] * 10 + base[10:]
    assert compare(base, base).not_inferior is None
    assert compare(base, one_lost, margin=0.08).not_inferior is True
    assert compare(base, ten_lost, margin=0.05).not_inferior is False
    assert compare(base[-20:], base[-20:], margin=0.02).not_inferior is False  # twenty items show nothing that small
    few = compare([True, False, False, True], [True] * 4, list("aabc"), margin=0.02)
    assert few.not_inferior is False, "that none of three documents happened to lose is no proof"
    told = compare(base, one_lost, margin=0.08).to_json()
    assert (told["margin"], told["not_inferior"], told["test"]) == (0.08, True, "mcnemar-exact")
    assert told["p_mid"] <= told["p"]


def test_items_needed_and_detectable_agree() -> None:
    for difference in (0.03, 0.08, 0.2):
        needed = items_needed(difference, churn_ratio=0.15)
        assert detectable_difference(needed, churn_ratio=0.15) == pytest.approx(difference, rel=1e-6)
    assert items_needed(0.0) == math.inf and detectable_difference(0) == 1.0 == detectable_mean(0, 1)
    assert detectable_mean(100, 0.5) == pytest.approx((1.959964 + 0.841621) * 0.05, rel=1e-5)


def _halves(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def test_a_corpus_score_is_compared_by_swapping_whole_documents() -> None:
    """Two documents with 50 lines each are two witnesses, however many lines they have."""
    rng = np.random.default_rng(2)
    base = np.column_stack([rng.random(100) < 0.3, np.ones(100)]).astype(float)
    tuned = np.column_stack([rng.random(100) < 0.8, np.ones(100)]).astype(float)
    alone = compare_tallies(Tally(base, _halves), Tally(tuned, _halves), span=1)
    clustered = compare_tallies(Tally(base, _halves), Tally(tuned, _halves), [i // 50 for i in range(100)], span=1)
    assert alone.direction == "better" and alone.test == "randomisation" and alone.p < 0.001
    assert clustered.direction == "no_evidence" and clustered.p == 0.5 and clustered.test == "cluster-randomisation"
    assert alone.estimate.value == pytest.approx(tuned[:, 0].mean() - base[:, 0].mean())
    same = compare_tallies(Tally(base, _halves), Tally(base, _halves), span=1)
    assert (same.p, same.direction) == (1.0, "no_evidence")
    assert same.estimate.low == pytest.approx(-(1.96**2) / (100 + 1.96**2), rel=1e-3), "no change is no certainty"
    single = compare_tallies(Tally(base[:1], _halves), Tally(tuned[:1], _halves), span=1)
    assert single.estimate.high - single.estimate.low > 0.7


def test_a_corpus_score_that_is_a_mean_has_the_means_interval() -> None:
    rng = np.random.default_rng(3)
    values = rng.random(80)
    tally = estimate_tally(Tally(np.column_stack([values, np.ones(80)]), _halves), resamples=10_000)
    plain = bootstrap(values.tolist())
    assert (tally.value, tally.low, tally.high) == pytest.approx((plain.value, plain.low, plain.high), abs=0.004)


def test_kappa_of_one_class_is_not_defined_and_passes_no_threshold() -> None:
    for kappa in (cohen_kappa("aaa", "aaa"), fleiss_kappa(["aaa"] * 4), krippendorff_alpha(["aaa"] * 4)):
        assert math.isnan(kappa) and not kappa >= 0.6
    assert cohen_kappa("abab", "abab") == 1.0 and cohen_kappa("abab", "baba") == -1.0


def test_the_bias_correction_moves_a_skewed_interval_outwards() -> None:
    """One item in twenty with a great effect: the truth lies further out on that side than the plain interval says."""
    values = [1.0] + [0.0] * 19
    plain = np.quantile(np.random.default_rng(0).binomial(20, 0.05, 10_000) / 20, [0.025, 0.975])
    corrected = bootstrap(values)
    assert corrected.high > plain[1]


def test_two_groups_that_agree_are_no_certainty() -> None:
    """Both documents gained 0.1 on average: the interval was [0.1, 0.1]."""
    told = compare([0.1, 0.5] * 10, [0.3, 0.5] * 10, ["a"] * 10 + ["b"] * 10)
    assert told.low < 0 < told.high and told.direction == "no_evidence"


def test_a_score_that_is_no_number_is_refused() -> None:
    """p was 0.0."""
    with pytest.raises(AssertionError, match="number"):
        compare([0.1, math.nan], [0.3, 0.5])
