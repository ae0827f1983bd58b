"""Groups of rows: who hangs together with whom, and of those that are twins, who stays. Plain numpy, no recursion."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from danlu.data.twins.folding import Places

Rows = npt.NDArray[np.int64]


class Ties:
    """Rows tied directly or through others are one group; each row knows the smallest row of its group."""

    def __init__(self, num_rows: int) -> None:
        self.first: Rows = np.arange(num_rows)

    def join(self, left: Places, right: Places) -> None:
        """Tie each pair. Labels sink along the edges, and along themselves, until all of a group have its smallest."""
        first = self.first
        while len(left):
            one, other = first[left], first[right]
            open_ = one != other
            left, right, one, other = left[open_], right[open_], one[open_], other[open_]
            np.minimum.at(first, np.maximum(one, other), np.minimum(one, other))
            while (deeper := first[first] != first).any():
                first[deeper] = first[first[deeper]]

    def join_equal(self, keys: npt.NDArray[np.uint64], rows: Places | None = None) -> None:
        """Tie all rows that share a key; 0 is no key."""
        rows = np.arange(len(keys)) if rows is None else rows
        has_key = keys != 0
        keys, rows = keys[has_key], rows[has_key]
        order = np.argsort(keys, kind="stable")
        keys, rows = keys[order], rows[order]
        same = np.flatnonzero(keys[1:] == keys[:-1])
        self.join(rows[same], rows[same + 1])


def kept_of(num_rows: int, worse: Places, better: Places) -> npt.NDArray[np.bool_]:
    """Which rows stay: a row is left out exactly when a better one that it is a twin of stays. `worse[i]` is a twin of
    `better[i]`; numbers are ranks, smaller is better."""
    stays = np.ones(num_rows, bool)
    while len(worse):
        is_open = np.zeros(num_rows, bool)
        is_open[worse] = True  # has better twins of which not all are known to be left out
        known = ~is_open[better]
        out = np.zeros(num_rows, bool)
        out[worse[known & stays[better]]] = True
        stays &= ~out
        rest = ~out[worse] & ~known
        worse, better = worse[rest], better[rest]
    return stays
