"""Every statistic beside an independent one: SciPy, scikit-learn, or the definition worked through by hand in fractions.

At least 500 random cases each; equal to 1e-9 where the definition is exact.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from danlu.evaluation.confusion import Confusion
from danlu.evaluation.fold import overlap_f1
from danlu.evaluation.stats import (
    Tally,
    bootstrap,
    cohen_kappa,
    compare_tallies,
    fleiss_kappa,
    holm,
    krippendorff_alpha,
    mcnemar,
    mcnemar_mid,
    sign_flip,
    wilson,
)
from danlu.evaluation.stats.intervals import interval_of, student

scipy_stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed (it comes with extra select)")
sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed (extra select)")

CASES = 500


def test_mcnemar_is_scipys_binomial_test() -> None:
    dice = random.Random(1)
    for _ in range(CASES):
        gained, lost = dice.randint(0, 400), dice.randint(0, 400)
        if gained + lost == 0:
            continue
        wanted = scipy_stats.binomtest(gained, gained + lost, 0.5).pvalue
        assert mcnemar(gained, lost) == pytest.approx(wanted, rel=1e-9)


def test_mid_p_is_the_definition_in_fractions() -> None:
    dice = random.Random(2)
    for _ in range(CASES):
        gained, lost = dice.randint(0, 60), dice.randint(0, 60)
        n = gained + lost
        shares = [Fraction(math.comb(n, k), 2**n) for k in range(n + 1)]
        seen = shares[gained]
        wanted = sum((s for s in shares if s < seen), Fraction(0)) + Fraction(1, 2) * sum(
            s for s in shares if s == seen
        )
        assert mcnemar_mid(gained, lost) == pytest.approx(
            float(min(Fraction(1), wanted)) if gained != lost else 1.0, abs=1e-12
        )
        assert mcnemar_mid(gained, lost) <= mcnemar(gained, lost)


def test_wilson_is_scipys() -> None:
    dice = random.Random(3)
    for _ in range(CASES):
        num_items = dice.randint(1, 2000)
        num_right, level = dice.randint(0, num_items), dice.choice([0.8, 0.9, 0.95, 0.99])
        wanted = scipy_stats.binomtest(num_right, num_items).proportion_ci(level, method="wilson")
        assert wilson(num_right, num_items, level=level) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


def test_students_quantile_is_scipys_within_what_it_says() -> None:
    for free in range(3, CASES):
        slack = 0.002 if free >= 9 else 0.04
        assert student(free, 0.95) == pytest.approx(scipy_stats.t.ppf(0.975, free), rel=slack)


def test_the_bootstrap_without_expansion_is_scipys_on_the_same_draws() -> None:
    """Percentile and BCa, both: SciPy draws its indices as we do, so the very same resamples are compared."""
    rng = np.random.default_rng(4)
    for number in range(CASES):
        size = int(rng.integers(5, 60))
        values = rng.random(size) if number % 2 else rng.integers(-1, 2, size).astype(float)
        method = "BCa" if number % 3 else "percentile"
        if np.ptp(values) == 0:
            continue
        wanted = scipy_stats.bootstrap(
            (values,), np.mean, n_resamples=299, method=method, rng=np.random.default_rng(number)
        ).confidence_interval
        drawn = values[np.random.default_rng(number).integers(0, size, (299, size))].mean(axis=1)
        left_out = (values.sum() - values) / (size - 1) if method == "BCa" else None
        got = interval_of(drawn, values.mean(), left_out, num_groups=size, expanded=False)
        assert got == pytest.approx((wanted.low, wanted.high), abs=1e-9), (number, method)


def test_the_clustered_bootstrap_is_the_flat_one_where_groups_are_single_and_sums_where_not() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        values = rng.random(40).tolist()
        assert bootstrap(values, list("ab" * 20)).num_groups == 2 and bootstrap(values, ["a"] * 40) == bootstrap(values)
        flat, single = bootstrap(values, resamples=500), bootstrap(values, range(40), resamples=500)
        assert flat == single
        groups = rng.integers(0, 12, 40).tolist()
        sums = {
            g: (sum(v for v, k in zip(values, groups, strict=True) if k == g), groups.count(g))
            for g in dict.fromkeys(groups)
        }
        drawn_from = np.asarray(list(sums.values()))
        index = np.random.default_rng(0).integers(0, len(sums), size=(500, len(sums)))
        drawn = drawn_from[index].sum(axis=1)
        drawn = drawn[:, 0] / drawn[:, 1]
        total = drawn_from.sum(axis=0)
        left_out = (total[0] - drawn_from[:, 0]) / (total[1] - drawn_from[:, 1])
        wanted = interval_of(drawn, total[0] / total[1], left_out, num_groups=len(sums))
        got = bootstrap(values, groups, resamples=500)
        assert (got.low, got.high) == pytest.approx(wanted, abs=1e-9)


def test_sign_flip_is_scipys_exact_permutation_test() -> None:
    rng = np.random.default_rng(6)
    for _ in range(CASES):
        size = int(rng.integers(2, 11))
        values = rng.integers(-20, 30, size)  # whole numbers: ties are ties, not rounding
        values[values == 0] = 1
        wanted = scipy_stats.permutation_test(
            (values,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        ).pvalue
        assert sign_flip(values.tolist(), range(size)) == pytest.approx(wanted, abs=1e-9)


def test_sampled_sign_flips_come_near_the_exact_ones() -> None:
    rng = np.random.default_rng(7)
    for number in range(5):
        values = rng.normal(0.4, 1, 16).tolist()
        exact = np.mean([abs(sum(v * s for v, s in zip(values, signs, strict=True))) >= abs(sum(values)) - 1e-9
                         for signs in itertools.product((-1, 1), repeat=16)])  # fmt: skip
        assert sign_flip(values, range(16), seed=number) == pytest.approx(exact, abs=0.02)


def test_holm_is_its_definition() -> None:
    """The largest of (m - j + 1) p_(j) over j up to the rank, at most 1."""
    dice = random.Random(8)
    for _ in range(CASES):
        p_values = {str(i): dice.choice([dice.random(), 0.05, dice.random() ** 4]) for i in range(dice.randint(1, 12))}
        ordered = sorted(p_values.values())
        adjusted = holm(p_values)
        for name, p in p_values.items():
            rank = max(i for i, other in enumerate(ordered) if other == p)
            wanted = min(1.0, max((len(ordered) - j) * ordered[j] for j in range(rank + 1)))
            assert adjusted[name] == pytest.approx(wanted, abs=1e-12)


def _ratings(dice: random.Random, classes: int, size: int) -> tuple[list[int], list[int]]:
    first = [dice.randrange(classes) for _ in range(size)]
    return first, [one if dice.random() < 0.6 else dice.randrange(classes) for one in first]


def test_cohens_kappa_is_scikit_learns() -> None:
    dice = random.Random(9)
    for number in range(CASES):
        first, second = _ratings(dice, dice.randint(2, 6), dice.randint(3, 60))
        if len({*first, *second}) < 2:
            continue
        weights = ("none", "linear", "quadratic")[number % 3]
        wanted = sklearn_metrics.cohen_kappa_score(first, second, weights=None if weights == "none" else weights)
        got = cohen_kappa(first, second, weights=weights)
        assert got == pytest.approx(wanted, abs=1e-9, nan_ok=True), (first, second, weights)


def test_fleiss_kappa_is_its_definition_in_fractions() -> None:
    dice = random.Random(10)
    for _ in range(CASES):
        num_raters = dice.randint(2, 6)
        rows = [
            [dice.choice("abc") if dice.random() < 0.4 else "b" for _ in range(num_raters)]
            for _ in range(dice.randint(2, 25))
        ]
        agreed = [
            Fraction(sum(one == other for one, other in itertools.permutations(row, 2)), num_raters * (num_raters - 1))
            for row in rows
        ]
        shares = [Fraction(count, len(rows) * num_raters) for count in Counter(itertools.chain(*rows)).values()]
        seen, chance = sum(agreed) / len(rows), sum(share**2 for share in shares)
        if chance == 1:
            assert math.isnan(fleiss_kappa(rows))
        else:
            assert fleiss_kappa(rows) == pytest.approx(float((seen - chance) / (1 - chance)), abs=1e-9)


def test_fleiss_example_of_1971() -> None:
    """14 raters, 10 subjects, 5 categories: 0.210 (Fleiss' own worked example as it is commonly printed)."""
    table = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    rows = [[k for k, count in enumerate(row) for _ in range(count)] for row in table]
    assert fleiss_kappa(rows) == pytest.approx(0.20993, abs=1e-5)


def _alpha_by_pairs(rows: list[list[float | None]], scale: str) -> float:
    """1 - observed / expected disagreement, pair by pair, without a coincidence table."""
    units = [[v for v in row if v is not None] for row in rows]
    units = [unit for unit in units if len(unit) >= 2]
    values = sorted(itertools.chain(*units))
    counts = Counter(values)

    def gap(one: float, other: float) -> float:
        low, high = min(one, other), max(one, other)
        if scale == "nominal":
            return float(one != other)
        if scale == "interval":
            return (one - other) ** 2
        if scale == "ratio":
            return 0.0 if one + other == 0 else ((one - other) / (one + other)) ** 2
        return (
            (sum(n for v, n in counts.items() if low <= v <= high) - (counts[low] + counts[high]) / 2) ** 2
            if low != high
            else 0.0
        )

    seen = sum(sum(gap(a, b) for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in units) / len(
        values
    )
    chance = sum(gap(a, b) for a, b in itertools.permutations(values, 2)) / (len(values) * (len(values) - 1))
    return 1 - seen / chance if chance else math.nan


def test_krippendorffs_alpha_is_its_definition_pair_by_pair() -> None:
    dice = random.Random(11)
    for number in range(CASES):
        scale = ("nominal", "ordinal", "interval", "ratio")[number % 4]
        rows = [
            [None if dice.random() < 0.25 else dice.choice([1, 1, 2, 3, 5]) for _ in range(dice.randint(2, 4))]
            for _ in range(dice.randint(3, 12))
        ]
        if sum(len([v for v in row if v is not None]) >= 2 for row in rows) < 2:
            continue
        assert krippendorff_alpha(rows, scale=scale) == pytest.approx(
            _alpha_by_pairs(rows, scale), abs=1e-9, nan_ok=True
        )


def test_krippendorffs_own_example() -> None:
    """Computing Krippendorff's Alpha-Reliability (2011), part C: four observers, twelve units, missing values."""
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None], [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None], [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]  # fmt: skip
    rows = [list(unit) for unit in zip(*observers, strict=True)]
    wanted = {"nominal": 0.743, "ordinal": 0.815, "interval": 0.849, "ratio": 0.797}
    assert {scale: round(krippendorff_alpha(rows, scale=scale), 3) for scale in wanted} == wanted


def test_f1_and_mcc_are_scikit_learns_with_parse_failures_as_wrong() -> None:
    dice = random.Random(12)
    for _ in range(CASES):
        classes = "甲乙丙丁ab"[: dice.randint(2, 6)]
        size = dice.randint(5, 60)
        true = [dice.choice(classes) for _ in range(size)]
        named = [one if dice.random() < 0.5 else dice.choice([*classes, None]) for one in true]
        told = [name or "(none)" for name in named]
        labels = sorted({*true, *told} - {"(none)"})
        confusion = Confusion.of(true, named)
        kinds = {"macro_f1": "macro", "micro_f1": "micro", "weighted_f1": "weighted"}
        for ours, theirs in kinds.items():
            wanted = sklearn_metrics.f1_score(true, told, labels=labels, average=theirs, zero_division=0)
            assert confusion.score(ours) == pytest.approx(wanted, abs=1e-9), (ours, true, told)
        assert confusion.score("accuracy") == pytest.approx(sklearn_metrics.accuracy_score(true, told), abs=1e-9)
        assert confusion.score("mcc") == pytest.approx(sklearn_metrics.matthews_corrcoef(true, told), abs=1e-9)
        assert confusion.num_parse_failures == named.count(None)
        per_class = confusion.per_class()
        wanted = sklearn_metrics.precision_recall_fscore_support(true, told, labels=labels, zero_division=0)
        for place, name in enumerate(labels):
            assert tuple(per_class[name].values()) == pytest.approx([part[place] for part in wanted], abs=1e-9)


def test_character_f1_is_the_definition_in_fractions() -> None:
    dice = random.Random(13)
    for _ in range(CASES):
        answer = tuple(dice.choice("年假七天出差80元a") for _ in range(dice.randint(0, 20)))
        reference = tuple(dice.choice("年假七天出差80元b") for _ in range(dice.randint(0, 20)))
        common = sum((Counter(answer) & Counter(reference)).values())
        if not answer or not reference:
            wanted = Fraction(answer == reference)
        elif not common:
            wanted = Fraction(0)
        else:
            precision, recall = Fraction(common, len(answer)), Fraction(common, len(reference))
            wanted = 2 * precision * recall / (precision + recall)
        assert overlap_f1(answer, reference) == pytest.approx(float(wanted), abs=1e-12)


def test_randomisation_of_sums_is_every_swap_counted() -> None:
    """A score that is no mean (a ratio of sums), at most 8 groups: all 2^8 swaps by hand."""
    rng = np.random.default_rng(14)
    for _ in range(CASES):
        size = int(rng.integers(2, 9))
        base, tuned = (np.add(rng.integers(0, 5, (size, 2)), (0, 1)) for _ in range(2))

        def ratio(rows):
            return rows[..., 0] / rows[..., 1]

        seen = abs(ratio(tuned.sum(axis=0)) - ratio(base.sum(axis=0)))
        hits = []
        for swap in itertools.product((False, True), repeat=size):
            first = np.where(np.asarray(swap)[:, None], tuned, base).sum(axis=0)
            second = np.where(np.asarray(swap)[:, None], base, tuned).sum(axis=0)
            hits.append(abs(ratio(second) - ratio(first)) >= seen - 1e-9)
        got = compare_tallies(
            Tally(base.astype(float), ratio), Tally(tuned.astype(float), ratio), span=9, resamples=200
        )
        assert got.p == pytest.approx(np.mean(hits), abs=1e-9)
