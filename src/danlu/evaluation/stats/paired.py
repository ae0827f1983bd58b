"""Two answers to the same items: is the second better, by how much, how sure?

Effect and interval first, p second. Answers right or wrong, each on its own: exact McNemar and Tango's score interval,
which stays honest where hardly any answer changed. With groups, or with scores in between: whole groups change sides (a
permutation test), and the interval is a cluster bootstrap. Not for corpus scores: `corpus.py`.
Sources: McNemar 1947 (exact form); Fagerland, Lydersen & Laake 2013 (mid-p); Tango 1998; Holm 1979.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from danlu.evaluation.loss import loss_bounds
from danlu.evaluation.stats.groups import RESAMPLES, Floats, by_group, chance, coins
from danlu.evaluation.stats.intervals import Estimate, bootstrap, few_groups_ratio, unchanged
from danlu.evaluation.stats.power import detectable_difference, detectable_mean

Direction = Literal["better", "worse", "no_evidence"]
Test = Literal["mcnemar-exact", "sign-flip", "cluster-sign-flip", "randomisation", "cluster-randomisation"]
ALPHA = 0.05


def direction_of(low: float, high: float, p: float) -> Direction:
    """Better or worse where the interval leaves out zero and the test agrees at 5 %."""
    if p < ALPHA and low > 0:
        return "better"
    return "worse" if p < ALPHA and high < 0 else "no_evidence"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Tuned minus base on the same items, in [-1, 1]. `detectable`: smallest difference these items can show.

    `p_mid` (McNemar only) is less cautious than the exact p; `margin` is what may be lost and still count as no worse.
    """

    estimate: Estimate
    num_gained: int
    num_lost: int
    p: float
    test: Test
    detectable: float
    p_mid: float | None = None
    margin: float | None = None

    @property
    def value(self) -> float:
        return self.estimate.value

    @property
    def low(self) -> float:
        return self.estimate.low

    @property
    def high(self) -> float:
        return self.estimate.high

    @property
    def num_items(self) -> int:
        return self.estimate.num_items

    @property
    def num_groups(self) -> int:
        return self.estimate.num_groups

    @property
    def direction(self) -> Direction:
        return direction_of(self.low, self.high, self.p)

    @property
    def not_inferior(self) -> bool | None:
        """Whether the whole interval lies above -margin: a loss beyond the margin is ruled out at 97.5 %."""
        return None if self.margin is None else self.low > -self.margin

    def to_json(self) -> dict[str, Any]:
        told = self.estimate.to_json() | {
            "p": self.p, "test": self.test, "num_gained": self.num_gained, "num_lost": self.num_lost,
            "detectable": self.detectable, "direction": self.direction,
        }  # fmt: skip
        if self.p_mid is not None:
            told["p_mid"] = self.p_mid
        return told if self.margin is None else told | {"margin": self.margin, "not_inferior": self.not_inferior}


def mcnemar(num_gained: int, num_lost: int) -> float:
    """Two-sided exact p of so many wins and losses among the items on which base and tuned differ; 1 when none do."""
    discordant, least = num_gained + num_lost, min(num_gained, num_lost)
    if discordant == 0:
        return 1.0
    # Integers all the way: 2 * tail / 2**n, exact to the last bit of the division.
    return min(1.0, (2 * _tail(discordant, least)[0]) / (1 << discordant))


def mcnemar_mid(num_gained: int, num_lost: int) -> float:
    """Mid-p: only half of what was seen counts as extreme. Close to 5 % where the exact test stays far below it."""
    discordant, least = num_gained + num_lost, min(num_gained, num_lost)
    if discordant == 0 or num_gained == num_lost:
        return 1.0
    tail, last = _tail(discordant, least)
    return (2 * tail - last) / (1 << discordant)


def _tail(discordant: int, least: int) -> tuple[int, int]:
    """Sum of the binomial coefficients up to `least`, and the last of them."""
    tail, term, last = 0, 1, 1
    for k in range(least + 1):
        tail, last = tail + term, term
        term = term * (discordant - k) // (k + 1)
    return tail, last


def sign_flip(
    differences: Sequence[float], groups: Sequence[Hashable], *, seed: int = 0, resamples: int = RESAMPLES
) -> float:
    """Two-sided p when the sign of each group's summed difference is a coin's; all 2^G signs up to 13 groups."""
    sums = by_group(np.asarray(differences, dtype=np.float64), groups)[0]
    sums = sums[sums != 0]
    if len(sums) == 0:
        return 1.0
    observed = abs(float(sums.sum())) - 1e-9 * float(np.abs(sums).sum())
    hits = 0
    for heads in coins(len(sums), np.random.default_rng(seed), resamples):
        hits += int(np.sum(np.abs((2 * heads - 1) @ sums) >= observed))
    return chance(hits, len(sums), resamples)


def compare(
    base: Sequence[float],
    tuned: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    *,
    margin: float | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Paired difference of the means, its clustered interval and its test. Answers are right or wrong (bool), or
    scores in [0, 1]; several runs of one item enter as their mean, for they are no more items."""
    assert len(base) == len(tuned) > 0, "both answer the same items, at least one"
    before, after = np.asarray(base, dtype=np.float64), np.asarray(tuned, dtype=np.float64)
    differences = after - before
    assert np.isfinite(differences).all(), "every score is a number"
    keys: Sequence[Hashable] = range(len(differences)) if groups is None else list(groups)
    num_gained, num_lost = int((differences > 0).sum()), int((differences < 0).sum())
    is_binary = bool(np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all())
    is_grouped = len(set(keys)) < len(differences)
    exact = is_binary and not is_grouped
    estimate = _paired_estimate(differences, keys, is_binary=is_binary, exact=exact, seed=seed, resamples=resamples)
    flips: Test = "cluster-sign-flip" if is_grouped else "sign-flip"
    p = (
        mcnemar(num_gained, num_lost)
        if exact
        else sign_flip(differences.tolist(), keys, seed=seed, resamples=resamples)
    )
    return Comparison(
        estimate, num_gained, num_lost,
        p=p,
        test="mcnemar-exact" if exact else flips,
        detectable=_detectable(differences, keys, is_binary=is_binary),
        p_mid=mcnemar_mid(num_gained, num_lost) if exact else None,
        margin=margin,
    )  # fmt: skip


def holm(p_values: Mapping[str, float], *, num_tests: int | None = None) -> dict[str, float]:
    """Adjusted p of each named test so that the chance of one false alarm among all stays 5 % (Holm 1979).

    `num_tests`: how many there would have been, where these were picked by what was seen; those left out are taken to
    have the larger p.
    """
    num = len(p_values) if num_tests is None else num_tests
    adjusted: dict[str, float] = {}
    running = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda entry: entry[1])):
        running = max(running, min(1.0, (num - rank) * p))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def _paired_estimate(
    differences: Floats, groups: Sequence[Hashable], *, is_binary: bool, exact: bool, seed: int, resamples: int
) -> Estimate:
    """Tango's interval; with groups the wider of it, at the sample size that the groups leave, and the bootstrap's, for
    where no group happened to lose a bootstrap sees no loss."""
    num_items, num_groups = len(differences), len(set(groups))
    if is_binary:
        size = _paired_size(differences, groups)
        gained, lost = (float((side * differences > 0).mean()) * size for side in (1, -1))
        low, high = loss_bounds(gained, lost, size, level=1 - ALPHA / 2)
        if exact or np.ptp(differences) == 0:
            return Estimate(float(differences.mean()), low, high, num_items, num_groups)
    drawn = bootstrap(differences.tolist(), groups, seed=seed, resamples=resamples)
    if not is_binary:
        # groups that all agree show no spread to redraw, which is not certainty
        slack = unchanged(drawn.num_groups) if drawn.high - drawn.low < 1e-12 else 0.0
        low, high = drawn.low - slack, drawn.high + slack
    return replace(drawn, low=max(-1.0, min(low, drawn.low)), high=min(1.0, max(high, drawn.high)))


def _detectable(differences: Floats, groups: Sequence[Hashable], *, is_binary: bool) -> float:
    size = _paired_size(differences, groups) * few_groups_ratio(len(set(groups)))
    if not is_binary:
        return detectable_mean(size, float(differences.std()))
    churn = 2 * min((differences > 0).mean(), (differences < 0).mean())
    return detectable_difference(size, churn_ratio=float(churn))


def _paired_size(differences: Floats, groups: Sequence[Hashable]) -> float:
    """How many independent items the differences are worth."""
    sums, sizes = by_group(differences, groups)
    spread = float(((differences - differences.mean()) ** 2).sum())
    clustered = float(((sums - differences.mean() * sizes) ** 2).sum())
    if spread == 0:
        return float(len(sizes))
    return max(1.0, len(differences) / max(1.0, clustered / spread))
