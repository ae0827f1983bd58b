"""Histograms over fixed edges, so that shards add up; and the lengths of a dataset in tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from danlu.data.quality.facts import Histogram, LengthFacts

LENGTH_EDGES = tuple(float(round(2 ** (power / 2))) for power in range(4, 37))
"""4 to 262,144 in steps of √2; what is shorter than 4 counts in the first bar. Characters and tokens alike."""
SCORE_EDGES = (*(index / 20 for index in range(20)), 1.000001, *(index / 2 for index in range(3, 21)))
"""Scores in [0, 1] in twentieths, 1 among the highest; a judge's marks up to 10 in halves."""


def histogram_of(
    values: npt.NDArray[np.generic] | Sequence[float], edges: tuple[float, ...] = LENGTH_EDGES
) -> Histogram:
    """Any number of values, below the first edge counted into the first bar."""
    array = np.asarray(values, dtype=np.float64)
    places = np.clip(np.searchsorted(np.asarray(edges), array, side="right") - 1, 0, None)
    counts = np.bincount(places, minlength=len(edges)) if len(array) else np.zeros(len(edges), np.int64)
    return Histogram(
        edges, tuple(int(count) for count in counts), float(array.sum()), float(array.max()) if len(array) else 0.0
    )


def add(left: Histogram, right: Histogram) -> Histogram:
    """Both together; they must have the same edges."""
    assert left.edges == right.edges, "histograms over different edges do not add up"
    counts = tuple(one + other for one, other in zip(left.counts, right.counts, strict=True))
    return Histogram(left.edges, counts, left.total + right.total, max(left.largest, right.largest))


def lengths_of(
    lengths: npt.NDArray[np.int64] | Sequence[int],
    context: int,
    *,
    over_length: str = "",
    num_over: int | None = None,
    num_cut: int = 0,
    num_supervised: int = 0,
) -> LengthFacts:
    """`lengths` are tokens per train row as written (`Part.lengths`). `num_over`: rows longer than the context before
    anything was done about it; None counts those still longer."""
    array = np.asarray(lengths, dtype=np.int64)
    over = int((array > context).sum()) if num_over is None else num_over
    return LengthFacts(context, over_length, histogram_of(array), over, num_cut, int(array.sum()), num_supervised)
