"""Do raters agree beyond chance? Two raters (Cohen 1960, 1968), several (Fleiss 1971), with gaps (Krippendorff 2011).

A coefficient is not defined where only one class was ever given: then it is NaN, which passes no threshold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np

from danlu.evaluation.stats.corpus import Tally
from danlu.evaluation.stats.groups import Floats

Weights = Literal["none", "linear", "quadratic"]
Scale = Literal["nominal", "ordinal", "interval", "ratio"]


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable], *, weights: Weights = "none") -> float:
    """Agreement of two raters beyond chance. With weights the classes are steps of a scale, and sorted."""
    return cohen_tally(first, second, weights=weights).total


def cohen_tally(first: Sequence[Hashable], second: Sequence[Hashable], *, weights: Weights = "none") -> Tally:
    """The same as sums per item, for an interval (`estimate_tally`)."""
    assert len(first) == len(second) > 0, "both rate the same items, at least one"
    classes = _classes([*first, *second], sort=weights != "none")
    num_classes = len(classes)
    rows = np.zeros((len(first), num_classes * num_classes))
    for row, one, other in zip(rows, first, second, strict=True):
        row[classes[one] * num_classes + classes[other]] = 1
    steps = np.abs(np.subtract.outer(np.arange(num_classes), np.arange(num_classes))).astype(np.float64)
    costs = {"none": (steps > 0) * 1.0, "linear": steps, "quadratic": steps**2}[weights]

    def value(sums_RK: Floats) -> Floats:
        tables = sums_RK.reshape(-1, num_classes, num_classes)
        num_items = tables.sum(axis=(1, 2))
        expected = np.einsum("ri,rj,ij->r", tables.sum(axis=2), tables.sum(axis=1), costs) / np.maximum(num_items, 1)
        observed = np.einsum("rij,ij->r", tables, costs)
        return _one_minus(observed, expected)

    return Tally(rows, value)


def fleiss_kappa(ratings: Sequence[Sequence[Hashable]]) -> float:
    """Agreement of a fixed number of ratings per item, by whatever raters."""
    return fleiss_tally(ratings).total


def fleiss_tally(ratings: Sequence[Sequence[Hashable]]) -> Tally:
    """The same as sums per item: its pairs that agree, and how often each class was given."""
    sizes = {len(row) for row in ratings}
    assert len(sizes) == 1 and min(sizes) >= 2, "Fleiss' kappa wants as many ratings of each item, at least two"
    (num_raters,) = sizes
    classes = _classes([rating for row in ratings for rating in row])
    rows = np.zeros((len(ratings), 2 + len(classes)))
    for row, given in zip(rows, ratings, strict=True):
        counts = Counter(given)
        row[0] = 1
        row[1] = sum(count * (count - 1) for count in counts.values()) / (num_raters * (num_raters - 1))
        for name, count in counts.items():
            row[2 + classes[name]] = count

    def value(sums_RK: Floats) -> Floats:
        num_items = np.maximum(sums_RK[:, 0], 1)
        shares = sums_RK[:, 2:] / (num_items * num_raters)[:, None]
        return _one_minus(1 - sums_RK[:, 1] / num_items, 1 - (shares**2).sum(axis=1))

    return Tally(rows, value)


def krippendorff_alpha(ratings: Sequence[Sequence[Hashable | None]], *, scale: Scale = "nominal") -> float:
    """Agreement of any number of ratings per item, None where one is missing; items with fewer than two do not count.

    On any scale but the nominal one the ratings are numbers.
    """
    rows = [[rating for rating in row if rating is not None] for row in ratings]
    rows = [row for row in rows if len(row) >= 2]
    classes = _classes([rating for row in rows for rating in row], sort=scale != "nominal")
    seen = np.zeros((len(classes), len(classes)))  # coincidences
    for row in rows:
        counts = np.zeros(len(classes))
        for rating in row:
            counts[classes[rating]] += 1
        seen += (np.outer(counts, counts) - np.diag(counts)) / (len(row) - 1)
    totals = seen.sum(axis=1)
    costs = _DISTANCES[scale](list(classes), totals)
    expected = float(totals @ costs @ totals) / max(1.0, float(totals.sum()) - 1)
    return 1 - float((seen * costs).sum()) / expected if expected > 0 else math.nan


def _nominal(classes: list[Hashable], totals: Floats) -> Floats:
    return 1.0 - np.eye(len(classes))


def _ordinal(classes: list[Hashable], totals: Floats) -> Floats:
    """Everything that was rated between the two, half of them themselves."""
    middle = np.cumsum(totals) - totals / 2
    return np.asarray(np.subtract.outer(middle, middle) ** 2, dtype=np.float64)


def _interval(classes: list[Hashable], totals: Floats) -> Floats:
    values = np.asarray(classes, dtype=np.float64)
    return np.asarray(np.subtract.outer(values, values) ** 2, dtype=np.float64)


def _ratio(classes: list[Hashable], totals: Floats) -> Floats:
    values = np.asarray(classes, dtype=np.float64)
    sums = np.add.outer(values, values)
    gaps = np.subtract.outer(values, values)
    return np.asarray(np.divide(gaps, sums, out=np.zeros_like(gaps), where=sums != 0) ** 2, dtype=np.float64)


_DISTANCES: dict[Scale, Callable[[list[Hashable], Floats], Floats]] = {
    "nominal": _nominal, "ordinal": _ordinal, "interval": _interval, "ratio": _ratio,
}  # fmt: skip


def _classes(ratings: Sequence[Hashable], *, sort: bool = False) -> dict[Hashable, int]:
    found = dict.fromkeys(ratings)
    return {name: place for place, name in enumerate(sorted(found) if sort else found)}  # type: ignore[type-var]


def _one_minus(observed: Floats, expected: Floats) -> Floats:
    ratio = np.divide(observed, expected, out=np.full_like(expected, math.nan), where=expected > 1e-15)
    return np.asarray(1 - ratio, dtype=np.float64)
