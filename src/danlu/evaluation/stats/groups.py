"""Groups of items that depend on each other, summed and drawn again: what every test and interval here rests on.

Letters: N items, G groups, K numbers per item, R draws.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
EXHAUSTIVE_GROUPS = 13
"""Up to so many groups all 2^G signs are counted, and p is exact."""

_CHUNK_CELLS = 4_000_000  # draws held in memory at once


def group_index(groups: Sequence[Hashable]) -> npt.NDArray[np.int64]:
    """The number of each item's group, in order of first sight."""
    places: dict[Hashable, int] = {}
    return np.asarray([places.setdefault(group, len(places)) for group in groups], dtype=np.int64)


def by_group(values_N: Floats, groups: Sequence[Hashable], weights_N: Floats | None = None) -> tuple[Floats, Floats]:
    """Sum of values and of weights (default 1) per group."""
    assert len(groups) == len(values_N), "one group per value"
    index = group_index(groups)
    num_groups = int(index.max()) + 1 if len(index) else 0
    sizes = np.bincount(index, weights=weights_N, minlength=num_groups).astype(np.float64)
    return np.bincount(index, weights=values_N, minlength=num_groups).astype(np.float64), sizes


def rows_by_group(rows_NK: Floats, groups: Sequence[Hashable]) -> Floats:
    """Sums [G, K] of rows."""
    assert len(groups) == len(rows_NK), "one group per row"
    index = group_index(groups)
    sums_GK = np.zeros((int(index.max()) + 1 if len(index) else 0, rows_NK.shape[1]))
    np.add.at(sums_GK, index, rows_NK)
    return sums_GK


def redraw_ratio(sums: Floats, sizes: Floats, rng: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """sum / size of samples of as many groups, drawn with replacement: [R]."""
    ratios = []
    for size in chunk_sizes(len(sums), resamples):
        drawn = rng.integers(0, len(sums), size=(size, len(sums)))
        ratios.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(ratios)


def redraw_counts(num_groups: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> Iterator[Floats]:
    """How often each group is drawn, in chunks [r, G]."""
    for size in chunk_sizes(num_groups, resamples):
        yield rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=size).astype(np.float64)


def coins(num_groups: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> Iterator[Floats]:
    """0 or 1 for each group, in chunks [r, G]: every combination where there are few groups, else random ones."""
    if num_groups <= EXHAUSTIVE_GROUPS:
        yield ((np.arange(1 << num_groups)[:, None] >> np.arange(num_groups)) & 1).astype(np.float64)
        return
    for size in chunk_sizes(num_groups, resamples):
        yield rng.integers(0, 2, size=(size, num_groups)).astype(np.float64)


def chance(hits: int, num_groups: int, resamples: int) -> float:
    """p of so many draws at least as extreme as what was seen, which is one of the draws."""
    if num_groups <= EXHAUSTIVE_GROUPS:
        return hits / (1 << num_groups)
    return (hits + 1) / (resamples + 1)


def chunk_sizes(width: int, resamples: int) -> list[int]:
    most = max(1, _CHUNK_CELLS // max(1, width))
    return [min(most, resamples - start) for start in range(0, resamples, most)]
