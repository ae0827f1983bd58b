"""Error bars and paired tests. numpy only, deterministic by seed.

Questions about one fact or one document rise and fall together, so whole groups are drawn again, never single items:
treating ten questions on one document as ten independent ones makes chance look like progress.
Sources: McNemar 1947 (exact form); Wilson 1927, with the effective sample size of Dean & Pagano 2015 for clusters;
Efron & Tibshirani 1993 and Hesterberg 2015 for the cluster bootstrap; Holm 1979.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Direction = Literal["better", "worse", "no_evidence"]

RESAMPLES = 10_000
_CHUNK_CELLS = 4_000_000  # bootstrap draws held in memory at once


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


@dataclass(frozen=True, slots=True)
class Comparison:
    """Tuned minus base on the same items, in [-1, 1]. `detectable`: smallest difference these items can show."""

    estimate: Estimate
    num_gained: int
    num_lost: int
    p: float
    test: Literal["mcnemar-exact", "cluster-sign-flip"]
    detectable: float

    @property
    def direction(self) -> Direction:
        """Better or worse where the interval leaves out zero and the test agrees at 5 %."""
        if self.p < 0.05 and self.estimate.low > 0:
            return "better"
        return "worse" if self.p < 0.05 and self.estimate.high < 0 else "no_evidence"

    def to_json(self) -> dict[str, Any]:
        return self.estimate.to_json() | {
            "p": self.p, "test": self.test, "num_gained": self.num_gained, "num_lost": self.num_lost,
            "detectable": self.detectable, "direction": self.direction,
        }  # fmt: skip


def mcnemar(num_gained: int, num_lost: int) -> float:
    """Two-sided exact p of so many wins and losses among the items on which base and tuned differ; 1 when none do."""
    discordant, least = num_gained + num_lost, min(num_gained, num_lost)
    if discordant == 0:
        return 1.0
    tail, term = 0, 1
    for k in range(least + 1):
        tail += term
        term = term * (discordant - k) // (k + 1)
    # Integers all the way: 2 * tail / 2**n, exact to the last bit of the division.
    return min(1.0, (2 * tail) / (1 << discordant))


def sign_flip(differences: Sequence[float], groups: Sequence[Hashable], *, seed: int = 0) -> float:
    """Two-sided p when the sign of each group's summed difference is a coin's; all 2^n signs up to 13 groups."""
    sums = _by_group(np.asarray(differences, dtype=np.float64), groups)[0]
    sums = sums[sums != 0]
    if len(sums) == 0:
        return 1.0
    observed = abs(float(sums.sum())) - 1e-9
    if len(sums) <= 13:
        codes = np.arange(1 << len(sums))[:, None] >> np.arange(len(sums))
        signs = 1.0 - 2.0 * (codes & 1)
        return float(np.mean(np.abs(signs @ sums) >= observed))
    rng = np.random.default_rng(seed)
    hits = 0
    for size in _chunk_sizes(len(sums)):
        signs = rng.integers(0, 2, size=(size, len(sums))) * 2.0 - 1.0
        hits += int(np.sum(np.abs(signs @ sums) >= observed))
    return (hits + 1) / (RESAMPLES + 1)  # the observed signs are one of the draws


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
    sums, sizes = _by_group(values, keys)
    value = float(values.mean()) if len(values) else 0.0
    low, high = wilson(value * (n := _effective_size(value, sums, sizes)), n)
    return Estimate(value, low, high, len(values), len(sizes))


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


def bootstrap(
    values: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    *,
    weights: Sequence[float] | None = None,
    transform: Callable[[Floats], Floats] | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Expanded percentile interval of sum(values) / sum(weights) (weights 1: the mean), 10 000 redraws of whole groups.

    `transform` turns the mean into what is reported (exp of a log-ratio); it must be monotonic.
    """
    array = np.asarray(values, dtype=np.float64)
    weight = np.ones_like(array) if weights is None else np.asarray(weights, dtype=np.float64)
    assert array.shape == weight.shape and array.ndim == 1 and len(array) > 0, "a weight per value, at least one value"
    keys: Sequence[Hashable] = range(len(array)) if groups is None else groups
    sums, sizes = _by_group(array, keys, weight)
    point = np.asarray([sums.sum() / sizes.sum()])
    drawn = _redraw(sums, sizes, np.random.default_rng(seed))
    if transform is not None:
        point, drawn = transform(point), transform(drawn)
    tail = _expanded_tail(len(sums), level)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(float(point[0]), float(low), float(high), len(array), len(sums))


def compare(
    base: Sequence[bool], tuned: Sequence[bool], groups: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Comparison:
    """Paired difference in the share of right answers, its clustered interval and its test."""
    assert len(base) == len(tuned) > 0, "both answer the same items, at least one"
    before, after = np.asarray(base, dtype=np.float64), np.asarray(tuned, dtype=np.float64)
    differences = after - before
    keys: Sequence[Hashable] = range(len(differences)) if groups is None else list(groups)
    num_gained, num_lost = int((differences > 0).sum()), int((differences < 0).sum())
    estimate = bootstrap(differences.tolist(), keys, seed=seed)
    if num_gained == len(base) or num_lost == len(base) or num_gained + num_lost == 0:
        estimate = _square_and_add(base, tuned, keys)
    is_grouped = estimate.num_groups < estimate.num_items
    p = sign_flip(differences.tolist(), keys, seed=seed) if is_grouped else mcnemar(num_gained, num_lost)
    effective = _paired_size(differences, keys)
    churn = 2 * min(num_gained, num_lost) / len(base)
    return Comparison(
        estimate, num_gained, num_lost, p, "cluster-sign-flip" if is_grouped else "mcnemar-exact",
        detectable_difference(effective, churn_ratio=churn),
    )  # fmt: skip


def _square_and_add(base: Sequence[bool], tuned: Sequence[bool], groups: Sequence[Hashable]) -> Estimate:
    """When every difference is the same a bootstrap sees no spread; the two Wilson intervals do (Newcombe 1998)."""
    before, after = proportion(base, groups), proportion(tuned, groups)
    value = after.value - before.value
    low = value - math.hypot(after.value - after.low, before.high - before.value)
    high = value + math.hypot(after.high - after.value, before.value - before.low)
    return Estimate(value, max(-1.0, low), min(1.0, high), before.num_items, before.num_groups)


def _paired_size(differences: Floats, groups: Sequence[Hashable]) -> float:
    """How many independent items the differences are worth."""
    sums, sizes = _by_group(differences, groups)
    spread = float(((differences - differences.mean()) ** 2).sum())
    clustered = float(((sums - differences.mean() * sizes) ** 2).sum())
    if spread == 0:
        return float(len(sizes))
    return max(1.0, len(differences) / max(1.0, clustered / spread))


def detectable_difference(
    num_items: float, *, churn_ratio: float = 0.1, level: float = 0.95, power: float = 0.8
) -> float:
    """Smallest true paired difference d found with so much power; `churn_ratio` is the share of items that change both
    ways and cancel out, so that churn + d of all items change.

    Solves n = (z_level sqrt(psi) + z_power sqrt(psi - d^2))^2 / d^2, psi = churn + d (Connor 1987); 1.0: none is found.
    """
    if num_items <= 0:
        return 1.0
    z_level, z_power = NormalDist().inv_cdf(0.5 + level / 2), NormalDist().inv_cdf(power)

    def is_found(difference: float) -> bool:
        changing = min(1.0, churn_ratio + difference)
        needed = z_level * math.sqrt(changing) + z_power * math.sqrt(max(0.0, changing - difference**2))
        return difference * math.sqrt(num_items) >= needed

    low, high = 0.0, 1.0
    for _ in range(50 if is_found(1.0) else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if is_found(middle) else (middle, high)
    return high


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p of each named test so that the chance of one false alarm among all stays 5 % (Holm 1979)."""
    adjusted: dict[str, float] = {}
    running = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda entry: entry[1])):
        running = max(running, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def _by_group(values: Floats, groups: Sequence[Hashable], weights: Floats | None = None) -> tuple[Floats, Floats]:
    """Sum of values and of weights (default 1) per group, groups in order of first sight."""
    assert len(groups) == len(values), "one group per value"
    places: dict[Hashable, int] = {}
    index = np.asarray([places.setdefault(group, len(places)) for group in groups], dtype=np.int64)
    sizes = np.bincount(index, weights=weights, minlength=len(places)).astype(np.float64)
    return np.bincount(index, weights=values, minlength=len(places)).astype(np.float64), sizes


def _redraw(sums: Floats, sizes: Floats, rng: np.random.Generator) -> Floats:
    """sum / size of 10 000 samples of as many groups, drawn with replacement."""
    ratios = []
    for size in _chunk_sizes(len(sums)):
        drawn = rng.integers(0, len(sums), size=(size, len(sums)))
        ratios.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(ratios)


def _expanded_tail(num_groups: int, level: float) -> float:
    """The share cut from each end. Plain percentiles are too narrow for few groups (Hesterberg 2015): this widens them
    to Student's t with num_groups - 1 degrees of freedom (Cornish-Fisher expansion) and to the unbiased variance."""
    if num_groups < 3:
        return 0.0
    z, free = NormalDist().inv_cdf(0.5 + level / 2), num_groups - 1
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return NormalDist().cdf(-t * math.sqrt(num_groups / free))


def _chunk_sizes(width: int) -> list[int]:
    most = max(1, _CHUNK_CELLS // width)
    return [min(most, RESAMPLES - start) for start in range(0, RESAMPLES, most)]
