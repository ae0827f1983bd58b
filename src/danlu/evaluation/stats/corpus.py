"""Scores that only a whole corpus has (BLEU, chrF, macro F1, kappa): intervals and paired tests from sums per item.

Each item brings K numbers; their sum has a value, the mean of the items' values does not. The test is approximate
randomisation (Noreen 1989; Riezler & Maxwell 2005): under the null it does not matter which model gave which answers,
so those of whole groups are swapped. The interval redraws groups, the same for both models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from danlu.evaluation.stats.groups import RESAMPLES, Floats, chance, coins, redraw_counts, rows_by_group
from danlu.evaluation.stats.intervals import BCA_BELOW, Estimate, interval_of, unchanged
from danlu.evaluation.stats.paired import Direction, Test, direction_of
from danlu.evaluation.stats.power import detectable_mean

_INTERVAL_RESAMPLES = 2_000  # a value of BLEU costs microseconds, not nanoseconds


@dataclass(frozen=True, slots=True)
class Tally:
    """`rows`: K numbers per item, [N, K]. `value`: from sums [R, K] to scores [R]."""

    rows: Floats
    value: Callable[[Floats], Floats]

    @property
    def total(self) -> float:
        return float(self.value(self.rows.sum(axis=0)[None])[0])


@dataclass(frozen=True, slots=True)
class CorpusComparison:
    """Tuned minus base of a corpus score, in the score's own unit."""

    base: float
    tuned: float
    estimate: Estimate
    p: float
    test: Test
    detectable: float

    @property
    def direction(self) -> Direction:
        return direction_of(self.estimate.low, self.estimate.high, self.p)

    def to_json(self) -> dict[str, Any]:
        return self.estimate.to_json() | {
            "p": self.p, "test": self.test, "detectable": self.detectable, "direction": self.direction,
        }  # fmt: skip


def estimate_tally(
    tally: Tally, groups: Sequence[Hashable] | None = None, *, seed: int = 0, resamples: int = _INTERVAL_RESAMPLES
) -> Estimate:
    """A corpus score with its clustered interval."""
    assert len(tally.rows) > 0, "at least one item"
    sums_GK = rows_by_group(tally.rows, _keys(tally, groups))
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([tally.value(counts @ sums_GK) for counts in redraw_counts(len(sums_GK), rng, resamples)])
    drawn = drawn[~np.isnan(drawn)]  # a kappa has no value where only one class was drawn
    if len(drawn) == 0:
        return Estimate(tally.total, math.nan, math.nan, len(tally.rows), len(sums_GK))
    left_out = tally.value(sums_GK.sum(axis=0) - sums_GK) if 1 < len(sums_GK) < BCA_BELOW else None
    if left_out is not None and np.isnan(left_out).any():
        left_out = None
    low, high = interval_of(drawn, tally.total, left_out, num_groups=len(sums_GK))
    return Estimate(tally.total, low, high, len(tally.rows), len(sums_GK))


def compare_tallies(
    base: Tally,
    tuned: Tally,
    groups: Sequence[Hashable] | None = None,
    *,
    span: float,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> CorpusComparison:
    """The paired difference of a corpus score, its interval, its test. `span`: the widest difference there can be."""
    assert base.rows.shape == tuned.rows.shape and len(base.rows) > 0, "both answer the same items"
    keys, value = _keys(base, groups), base.value
    base_GK, tuned_GK = rows_by_group(base.rows, keys), rows_by_group(tuned.rows, keys)
    difference = tuned.total - base.total
    drawn = np.concatenate(
        [
            value(counts @ tuned_GK) - value(counts @ base_GK)
            for counts in redraw_counts(len(base_GK), np.random.default_rng(seed), min(resamples, _INTERVAL_RESAMPLES))
        ]
    )
    left_out = None
    if 1 < len(base_GK) < BCA_BELOW:
        left_out = value(tuned_GK.sum(axis=0) - tuned_GK) - value(base_GK.sum(axis=0) - base_GK)
    low, high = interval_of(drawn, difference, left_out, num_groups=len(base_GK))
    slack = span * unchanged(len(base_GK)) if np.ptp(drawn) < 1e-12 else 0.0
    is_grouped = len(base_GK) < len(base.rows)
    return CorpusComparison(
        base.total, tuned.total,
        Estimate(difference, max(-span, low - slack), min(span, high + slack), len(base.rows), len(base_GK)),
        p=_randomise(base_GK, tuned_GK, value, difference, seed=seed, resamples=resamples),
        test="cluster-randomisation" if is_grouped else "randomisation",
        detectable=detectable_mean(1, float(drawn.std())),
    )  # fmt: skip


def _randomise(
    base_GK: Floats,
    tuned_GK: Floats,
    value: Callable[[Floats], Floats],
    difference: float,
    *,
    seed: int,
    resamples: int,
) -> float:
    """p when base and tuned change sides, group by group, at the toss of a coin."""
    moved_GK = (base_GK - tuned_GK)[np.any(base_GK != tuned_GK, axis=1)]
    if len(moved_GK) == 0:
        return 1.0
    before_K, after_K = base_GK.sum(axis=0), tuned_GK.sum(axis=0)
    observed, hits = abs(difference) - 1e-9, 0
    for heads in coins(len(moved_GK), np.random.default_rng(seed), resamples):
        swapped_RK = heads @ moved_GK
        gaps = value(after_K + swapped_RK) - value(before_K - swapped_RK)
        hits += int(np.sum(np.abs(gaps) >= observed))
    return chance(hits, len(moved_GK), resamples)


def _keys(tally: Tally, groups: Sequence[Hashable] | None) -> Sequence[Hashable]:
    """A single group tells nothing of others: then items are drawn."""
    return range(len(tally.rows)) if groups is None or len(set(groups)) == 1 else groups
