"""Intervals of one number: Wilson for shares, the cluster bootstrap for everything else.

Sources: Wilson 1927, at the effective sample size of Dean & Pagano 2015 where items are clustered; Efron & Tibshirani
1993 ch. 14 (BCa); Hesterberg 2015 (expanded percentiles).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from danlu.evaluation.stats.groups import RESAMPLES, Floats, by_group, redraw_ratio

_STUDENT_OF_TWO = 12.706204736  # 1 degree of freedom, 95 %
BCA_BELOW = 200
"""Below so many groups the bootstrap corrects for bias and skew; above, the correction is below its own noise."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval, and what it rests on."""

    value: float
    low: float
    high: float
    num_items: int
    num_groups: int

    def to_json(self) -> dict[str, Any]:
        return {
            "value": self.value, "interval": [self.low, self.high],
            "num_items": self.num_items, "num_groups": self.num_groups,
        }  # fmt: skip


def wilson(num_right: float, num_items: float, *, level: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion that neither leaves [0, 1] nor collapses at 0 or 1; `num_items` may be effective."""
    if num_items <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    ratio = num_right / num_items
    centre = ratio + z * z / (2 * num_items)
    spread = z * math.sqrt(ratio * (1 - ratio) / num_items + z * z / (4 * num_items * num_items))
    scale = 1 + z * z / num_items
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def proportion(right: Sequence[bool], groups: Sequence[Hashable] | None = None) -> Estimate:
    """Share of right answers; the Wilson interval at the sample size that the grouping leaves effective."""
    values = np.asarray(right, dtype=np.float64)
    keys = range(len(values)) if groups is None else groups
    sums, sizes = by_group(values, keys)
    value = float(values.mean()) if len(values) else 0.0
    low, high = wilson(value * (n := _effective_size(value, sums, sizes)), n)
    return Estimate(value, low, high, len(values), len(sizes))


def bootstrap(
    values: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    *,
    weights: Sequence[float] | None = None,
    transform: Callable[[Floats], Floats] | None = None,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Interval of sum(values) / sum(weights) (weights 1: the mean) from redraws of whole groups; BCa below 200 groups.

    A single group tells nothing of others: its items are drawn. `transform` turns the mean into what is reported (exp
    of a log-ratio); it must be monotonic.
    """
    array = np.asarray(values, dtype=np.float64)
    weight = np.ones_like(array) if weights is None else np.asarray(weights, dtype=np.float64)
    assert array.shape == weight.shape and array.ndim == 1 and len(array) > 0, "a weight per value, at least one value"
    keys: Sequence[Hashable] = range(len(array)) if groups is None or len(set(groups)) == 1 else groups
    sums, sizes = by_group(array, keys, weight)
    point = np.asarray([sums.sum() / sizes.sum()])
    drawn = redraw_ratio(sums, sizes, np.random.default_rng(seed), resamples)
    others = sizes.sum() - sizes
    left_out = (sums.sum() - sums) / others if 1 < len(sums) < BCA_BELOW and others.min() > 0 else None
    low, high = interval_of(drawn, float(point[0]), left_out, num_groups=len(sums), level=level)
    ends = np.asarray([low, high])
    if transform is not None:
        point, ends = transform(point), transform(ends)
    return Estimate(float(point[0]), float(ends[0]), float(ends[1]), len(array), len(sums))


def interval_of(
    drawn: Floats, point: float, left_out: Floats | None, *, num_groups: int, level: float = 0.95, expanded: bool = True
) -> tuple[float, float]:
    """The interval in bootstrap values [R]; BCa where `left_out` brings the values without each group [G].

    `expanded` widens the tails for few groups (`expanded_tail`); without it this is the textbook's interval.
    """
    if num_groups == 2 and left_out is not None and expanded:  # two values: Student's t, for there is nothing to redraw
        spread = _STUDENT_OF_TWO * abs(float(left_out[0] - left_out[1])) / 2
        return point - spread, point + spread
    tail = expanded_tail(num_groups, level) if expanded else (1 - level) / 2
    shares = (tail, 1 - tail)
    if left_out is not None and tail > 0:
        shares = _bca_shares(drawn, point, left_out, tail) or shares
    low, high = np.quantile(drawn, shares)
    return float(low), float(high)


def unchanged(num_groups: int, level: float = 0.95) -> float:
    """How far the truth may lie from what all of so many groups agree on, as a share of the whole range: z²/(G + z²),
    Tango's bound where no answer changed. A bootstrap sees no spread there and would claim certainty."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return z * z / (num_groups + z * z)


def expanded_tail(num_groups: int, level: float) -> float:
    """The share cut from each end. Plain percentiles are too narrow for few groups (Hesterberg 2015): this widens them
    to Student's t with num_groups - 1 degrees of freedom and to the unbiased variance."""
    if num_groups < 3:
        return 0.0
    return NormalDist().cdf(-student(num_groups - 1, level) * math.sqrt(num_groups / (num_groups - 1)))


def few_groups_ratio(num_groups: int, level: float = 0.95) -> float:
    """What the width of these intervals leaves of the sample's size: 0.83 with 20 groups, 0.98 with 200."""
    if num_groups < 3:
        return 0.1
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return (z / student(num_groups - 1, level)) ** 2 * (num_groups - 1) / num_groups


def student(free: int, level: float) -> float:
    """Two-sided quantile of Student's t by Cornish-Fisher: 4 % too small at 3 degrees of freedom, 0.2 % at 9."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)


def _bca_shares(drawn: Floats, point: float, left_out: Floats, tail: float) -> tuple[float, float] | None:
    """Where to cut so that bias and skew are corrected for; None where nothing varies."""
    below = (float(np.sum(drawn < point)) + float(np.sum(drawn <= point))) / (2 * len(drawn))
    spread = left_out.mean() - left_out
    variance = float((spread**2).sum())
    if variance <= 1e-24 or not 0 < below < 1:
        return None
    normal = NormalDist()
    bias = normal.inv_cdf(below)
    skew = float((spread**3).sum()) / (6 * variance**1.5)

    moved = [bias + z for z in (normal.inv_cdf(tail), -normal.inv_cdf(tail))]
    if any(1 - skew * shift <= 0 for shift in moved):  # skewed beyond what the correction was made for
        return None
    low, high = (normal.cdf(bias + shift / (1 - skew * shift)) for shift in moved)
    return low, high


def _effective_size(value: float, sums: Floats, sizes: Floats) -> float:
    """num_items / design effect. When all answers are alike there is no variance to learn it from: count the groups."""
    num_items, num_groups = float(sizes.sum()), len(sizes)
    if num_groups == num_items or num_items == 0:
        return num_items
    simple = value * (1 - value) / num_items
    if simple == 0 or num_groups < 2:
        return float(num_groups)
    clustered = num_groups / (num_groups - 1) * float(((sums - value * sizes) ** 2).sum()) / num_items**2
    return max(1.0, num_items / max(1.0, clustered / simple))
