"""Jaccard similarity of pairs of texts, exact: shared grams by all grams, both as sets.

Both texts of a pair lie side by side in one row of a matrix, as numbers with the side in the lowest bit; one sort of
each row puts equal grams next to each other. 3-grams are compared as they are; 5-grams by 63-bit hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data.twins.columns import Columns
from danlu.data.twins.compiled import purse
from danlu.data.twins.folding import Places, Units
from danlu.data.twins.loops_likeness import count_grams, find_forms
from danlu.data.twins.minhash import gram_keys
from danlu.data.twins.threads import threaded

Ratios = npt.NDArray[np.float32]
_CELLS = 1 << 16
"""Cells of the matrix worked on at once: half a megabyte, to stay in the cache."""
_SOME = 20_000
"""Pairs whose texts are brought together at once."""
_CHEAPER = 3
"""How much less a unit of these costs in numpy than one that is signed."""
_LAST = np.uint64(2**64 - 1)


class Texts:
    """The folded texts of all rows, where they lie: in the shards' own, perhaps memory-mapped, arrays."""

    def __init__(self, shards: Sequence[Columns]) -> None:
        self._units = [np.asarray(shard["units"]) for shard in shards]
        sizes = [len(shard["answer"]) for shard in shards]
        self._shard: npt.NDArray[np.int32] = np.repeat(np.arange(len(shards), dtype=np.int32), sizes)
        self.start: Places = _joined([shard["start"][:-1] for shard in shards], np.int64)
        self.length: npt.NDArray[np.int32] = _joined([np.diff(shard["start"]) for shard in shards], np.int32)
        self.asked: npt.NDArray[np.int32] = _joined([shard["asked"] for shard in shards], np.int32)
        self.said: npt.NDArray[np.int32] = _joined([shard["said"] for shard in shards], np.int32)

    def spans(self, rows: Places, part: str) -> tuple[Places, Places]:
        """(start, length) of these rows' "text", "question" or "answer"."""
        start, length = self.start[rows], self.length[rows].astype(np.int64)
        if part == "question":
            return start, self.asked[rows].astype(np.int64)
        if part == "answer":
            return start + length - self.said[rows], self.said[rows].astype(np.int64)
        return start, length

    def slices(self, rows: Places, start: Places, length: Places) -> list[Units]:
        units = self._units
        places = zip(self._shard[rows].tolist(), start.tolist(), (start + length).tolist(), strict=True)
        return [units[shard][begin:end] for shard, begin, end in places]


def jaccard(
    texts: Texts, left: Places, right: Places, *, gram: int, part: str = "text", quick: bool | None = None
) -> Ratios:
    """The similarity of each pair of rows, of that part of their text, which is at least one unit long. `quick`: by a
    compiled loop or without; by default where it pays. The similarity is the same."""
    sides = texts.spans(left, part), texts.spans(right, part)
    total = sides[0][1] + sides[1][1]
    if purse.is_worth(int(total.sum()) // _CHEAPER) if quick is None else quick:
        return _jaccard_quickly(texts, left, right, gram, part)
    order = np.argsort(total, kind="stable")
    found = np.empty(len(left), np.float32)
    for first, last in _batches(total[order] + 2 * gram):
        at = order[first:last]
        slices = [texts.slices(rows[at], start[at], length[at])
                  for rows, (start, length) in zip((left, right), sides, strict=True)]  # fmt: skip
        found[at] = _of_slices(slices[0], slices[1], sides[0][1][at], sides[1][1][at], gram)
    return found


def _jaccard_quickly(texts: Texts, left: Places, right: Places, gram: int, part: str) -> Ratios:
    def compare(some: slice) -> Ratios:
        shared, distinct = np.zeros((2, some.stop - some.start), np.int64)
        count_grams(*_gathered(texts, left[some], right[some], part), gram, shared, distinct)
        ratios: Ratios = (shared / distinct).astype(np.float32)
        return ratios

    return np.concatenate([np.zeros(0, np.float32), *threaded(compare, _some_of(len(left)))])


def _some_of(num: int) -> list[slice]:
    return [slice(at, min(at + _SOME, num)) for at in range(0, num, _SOME)]


def _gathered(texts: Texts, left: Places, right: Places, part: str) -> tuple[Units, Places, Places, Places, Places]:
    """The texts of these pairs end to end, where each begins, its length, and which of them each pair is of."""
    rows, which = np.unique(np.concatenate([left, right]), return_inverse=True)
    start, length = texts.spans(rows, part)
    units = np.concatenate([np.zeros(0, np.uint16), *texts.slices(rows, start, length)])
    return units, np.cumsum(length) - length, length, which[: len(left)], which[len(left) :]


def differ_in_figures_alone(
    texts: Texts, left: Places, right: Places, *, quick: bool | None = None
) -> npt.NDArray[np.bool_]:
    """Whether the texts of a pair are the same but for their digits: one form, two facts. `quick` as above."""
    if not len(left):
        return np.zeros(0, bool)
    if purse.is_worth(int(texts.length[left].sum()) // _CHEAPER) if quick is None else quick:

        def compare(some: slice) -> npt.NDArray[np.bool_]:
            found = np.zeros(some.stop - some.start, bool)
            find_forms(*_gathered(texts, left[some], right[some], "text"), found)
            return found

        return np.concatenate(list(threaded(compare, _some_of(len(left)))))
    rows, at = np.unique(np.concatenate([left, right]), return_inverse=True)
    start, length = texts.spans(rows, "text")
    numbers: list[bytes] = []
    forms: list[bytes] = []
    for units in texts.slices(rows, start, length):
        is_digit = (units >= ord("0")) & (units <= ord("9"))
        numbers.append(units[is_digit].tobytes())
        forms.append(blake2b(units[~is_digit].tobytes(), digest_size=16).digest())
    number, form = _numbered(numbers)[at], _numbered(forms)[at]
    num = len(left)
    is_so: npt.NDArray[np.bool_] = (number[:num] != number[num:]) & (form[:num] == form[num:])
    return is_so


def _numbered(values: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """Equal values have equal numbers."""
    known: dict[bytes, int] = {}
    return np.fromiter((known.setdefault(value, len(known)) for value in values), np.int64, len(values))


def _batches(widths: Places) -> Iterator[tuple[int, int]]:
    """Runs of pairs, widths ascending, whose matrix has about `_CELLS` cells."""
    first, num = 0, len(widths)
    while first < num:
        last = min(num, first + max(1, _CELLS // int(widths[first])))
        while last > first + 1 and (last - first) * int(widths[last - 1]) > 2 * _CELLS:
            last = first + (last - first) // 2
        yield first, last
        first = last


def _of_slices(left: list[Units], right: list[Units], left_size: Places, right_size: Places, gram: int) -> Ratios:
    gap = gram - 1
    width = int((left_size + right_size).max()) + 2 * gap
    zeros = np.zeros(width, np.uint16)
    rest = (width - gap - left_size - right_size).tolist()
    pieces = [piece for one, other, end in zip(left, right, rest, strict=True)
              for piece in (one, zeros[:gap], other, zeros[:end])]  # fmt: skip
    flat = np.concatenate([*pieces, zeros[:gap]])
    keys = gram_keys(flat, gram).reshape(len(left), width)
    column = np.arange(width)
    second = (left_size + gap)[:, None]
    is_second = column >= second
    # a text shorter than a gram is one gram of its own, filled up with zeros
    is_gram = column < np.maximum(left_size - gap, 1)[:, None]
    is_gram |= is_second & (column < second + np.maximum(right_size - gap, 1)[:, None])
    if gram > 3:
        keys &= ~np.uint64(1)
    else:
        keys <<= np.uint64(1)
    keys |= is_second
    keys[~is_gram] = _LAST
    keys.sort(axis=1)
    change = keys[:, 1:] ^ keys[:, :-1]
    shared = (change == 1).sum(axis=1)
    # every row ends with cells that are no gram: the step to them stands for the first gram, which is no step
    distinct = (change > 1).sum(axis=1)
    ratios: Ratios = (shared / distinct).astype(np.float32)
    return ratios


def _joined(parts: list[npt.NDArray[Any]], dtype: type[Any]) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype, copy=False)
