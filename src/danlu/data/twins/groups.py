"""Groups of rows: who hangs together with whom, and of those that are twins, who stays. Plain numpy, no recursion."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from danlu.data.twins.folding import Places

Rows = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
_LEAST_BITS = 8


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
        order = in_order(keys)
        keys, rows = keys[order], rows[order]
        same = np.flatnonzero(keys[1:] == keys[:-1])
        self.join(rows[same], rows[same + 1])


def in_order(keys: Keys, codes: Rows | None = None) -> Rows:
    """The stable order by `codes` (small numbers from 0 on; none are all equal), then by key. One sort of code, the
    key's highest bits and place in one number, which is several times as quick as sorting places; where those bits are
    equal and keys are not, the few places concerned are ordered again."""
    num = len(keys)
    place_bits = max(num - 1, 0).bit_length()
    code_bits = 0 if codes is None or not num else int(codes.max()).bit_length()
    key_bits = 64 - place_bits - code_bits
    if key_bits < _LEAST_BITS:
        return np.lexsort((keys,) if codes is None else (keys, codes))
    packed = keys >> np.uint64(64 - key_bits) << np.uint64(place_bits)
    packed |= np.arange(num, dtype=np.uint64)
    if codes is not None and code_bits:
        packed |= codes.astype(np.uint64) << np.uint64(64 - code_bits)
    packed.sort()
    order = (packed & np.uint64((1 << place_bits) - 1)).astype(np.int64)
    is_tied = np.flatnonzero((packed[1:] ^ packed[:-1]) >> np.uint64(place_bits) == 0)
    is_wrong = keys[order[is_tied]] != keys[order[is_tied + 1]]
    if is_wrong.any():
        packed >>= np.uint64(place_bits)
        wrong = np.unique(packed[is_tied[is_wrong]])
        at = np.minimum(np.searchsorted(wrong, packed), len(wrong) - 1)
        places = np.flatnonzero(wrong[at] == packed)
        order[places] = order[places][np.lexsort((keys[order[places]], packed[places]))]
    return order


def ranked(*columns: Rows) -> Rows:
    """The stable order by these small numbers from 0 on, the first one counting most."""
    num = len(columns[0])
    bits = [int(column.max()).bit_length() if num else 0 for column in (*columns, np.arange(num))]
    if sum(bits) > 64:
        return np.lexsort(columns[::-1])
    packed = np.zeros(num, np.uint64)
    for column, width in zip((*columns, np.arange(num)), bits, strict=True):
        packed <<= np.uint64(width)
        packed |= column.astype(np.uint64)
    packed.sort()
    return (packed & np.uint64((1 << bits[-1]) - 1)).astype(np.int64)


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
