"""contaminated: rows that hold an item of an evaluation set. What a model has learnt by heart cannot be asked of it.

An item is its question, and its question with its answer. Long ones are sought in pieces of 13 characters, as is usual
for contamination (Brown et al., "Language Models are Few-Shot Learners", 2020), short ones in pieces of 6: a row that
holds more than a half (of short ones four fifths) of an item's pieces holds the item. Pieces that many items share, the
words of a form, count for none of them. Questions of a few characters must be the row's question to the letter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.core.files import sha256_json
from danlu.data.cleaners.cleaner import Batch, Finding
from danlu.data.cleaners.words import Words
from danlu.data.joined import Laid, Places, Units
from danlu.data.sample import Sample

Keys = npt.NDArray[np.uint64]
_LONG, _SHORT = 13, 6
_LONG_FROM, _SHORT_FROM = 40, 9
"""Folded characters of an item from which it is sought in long and in short pieces."""
_HALF, _MOST = 0.5, 0.8
_SHARED = 5
"""Items that may have a piece in common before it counts as a form's words; a hundredth of many items."""
_FACTOR, _ODD = np.uint64(0xD6E8FEB86659FD93), np.uint64(0x9E3779B97F4A7C15)
_FILTER_SPARSE = 64
"""Bits of the filter for each piece, at least."""
_SECOND = np.uint64(20)
"""Where the second of a piece's two bits is taken from."""


class Contaminated:
    name = "contaminated"

    def __init__(self, items: Iterable[Sample]) -> None:
        samples = list(items)
        batch = Batch(samples)
        texts: dict[str, str] = {}
        for sample, asked, body in zip(samples, batch.asked, batch.body, strict=True):
            whole = f"{asked}\n{body}" if asked else body
            for text in (asked or body, whole):
                texts.setdefault(text, str(sample.origin))
        words = Words(Laid(list(texts)), quick=False)
        rows = [(words.units[begin:end], name) for begin, end, name in
                zip(words.at[:-1], words.at[1:], texts.values(), strict=True)]  # fmt: skip
        self.indices = (
            _Index.of([row for row in rows if len(row[0]) >= _LONG_FROM], _LONG, _HALF),
            _Index.of([row for row in rows if _SHORT_FROM <= len(row[0]) < _LONG_FROM], _SHORT, _MOST),
        )
        self.tiny = {units.tobytes(): name for units, name in rows if 0 < len(units) < _SHORT_FROM}
        self.digest = sha256_json(sorted(hashlib.sha256(units.tobytes()).hexdigest() for units, _ in rows))

    def key(self) -> dict[str, Any]:
        return {"version": 2, "items": self.digest}

    def judge(self, batch: Batch) -> Mapping[int, Finding]:
        found: dict[int, Finding] = {}
        words = batch.words
        for index in self.indices:
            for row, share, name in index.held_by(words.units, words.at[::2], quick=words.is_quick):
                found.setdefault(row, Finding("contaminated", {"share": round(100 * share), "item": name}))
        if self.tiny:
            length = np.where(batch.is_answer_of, batch.folded_asked.length, batch.folded_body.length)
            for row in np.flatnonzero((length > 0) & (length < _SHORT_FROM)).tolist():
                asked = batch.folded_asked if batch.is_answer(row) else batch.folded_body
                if item := self.tiny.get(asked.units(row).tobytes()):
                    found.setdefault(row, Finding("contaminated", {"share": 100, "item": item}))
        return found


@dataclass(frozen=True, slots=True)
class _Index:
    """`keys` sorted; the items of key i are `owners[first[i] : first[i + 1]]`; `total` pieces of each item. `maybe` has
    two bits for each key, of its upper bits (those above `shift`) and of those that follow."""

    gram: int
    least: float
    names: list[str]
    keys: Keys
    first: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]
    maybe: npt.NDArray[np.uint8]
    shift: np.uint64

    @classmethod
    def of(cls, items: Sequence[tuple[Units, str]], gram: int, least: float) -> _Index:
        own = [np.unique(_keys(units, gram)) for units, _ in items]
        keys = np.concatenate([np.zeros(0, np.uint64), *own])
        owner = np.repeat(np.arange(len(items)), [len(found) for found in own])
        distinct, number, count = np.unique(keys, return_inverse=True, return_counts=True)
        is_rare = count[number] <= max(_SHARED, len(items) // 100)
        num_rare = np.bincount(owner, weights=is_rare, minlength=len(items))
        is_wanted = is_rare | (num_rare[owner] == 0)  # an item that is nothing but a form's words keeps them
        keys, owner = keys[is_wanted], owner[is_wanted]
        order = np.argsort(keys, kind="stable")
        distinct, first = np.unique(keys[order], return_index=True)
        num_bits = max(16, (len(distinct) * _FILTER_SPARSE).bit_length())
        shift = np.uint64(64 - num_bits)
        maybe = np.zeros(1 << num_bits, np.uint8)
        for bit in (distinct >> shift, distinct << _SECOND >> shift):
            maybe[bit.astype(np.int64)] = 1
        total = np.bincount(owner, minlength=len(items))
        names = [name for _, name in items]
        bits = np.packbits(maybe, bitorder="little")
        return cls(gram, least, names, distinct, np.append(first, len(keys)), owner[order], total, bits, shift)

    def held_by(self, units: Units, start: Places, *, quick: bool = False) -> Iterable[tuple[int, float, str]]:
        """(row, share, item) of the item that each row holds most of, where that is enough. Row i is `units[start[i] :
        start[i + 1]]`."""
        if not len(self.keys):
            return
        places, at = self._pieces(units, quick=quick)
        row = np.searchsorted(start, places, "right") - 1
        is_own = places + self.gram <= start[row + 1]  # not those that reach into the next row
        row, at = row[is_own], at[is_own]
        pairs = _counted(row * len(self.keys) + at)[0]  # a piece counts once for a row
        row, at = pairs // len(self.keys), pairs % len(self.keys)
        num = self.first[at + 1] - self.first[at]
        flat = np.repeat(self.first[at] - (np.cumsum(num) - num), num) + np.arange(num.sum())
        both, count = _counted(np.repeat(row, num) * len(self.names) + self.owners[flat])
        row, item = both // len(self.names), both % len(self.names)
        share = count / self.total[item]
        order = np.lexsort((item, -share, row))
        for place in order[np.diff(row[order], prepend=-1) != 0].tolist():
            if share[place] > self.least:
                yield int(row[place]), float(share[place]), self.names[item[place]]

    def _pieces(self, units: Units, *, quick: bool) -> tuple[Places, Places]:
        """Where one of `keys` stands, and which."""
        if quick:
            from danlu.data.cleaners.loops_words import find_pieces  # compiled on the first call

            found, which = np.empty(len(units), np.int64), np.empty(len(units), np.int64)
            num = find_pieces(units, self.gram, _FACTOR, self.maybe, self.shift, self.keys, found, which)
            return found[:num], which[:num]
        keys = _keys(units, self.gram)
        bits = keys >> self.shift
        is_maybe = self.maybe[(bits >> np.uint64(3)).astype(np.int64)] >> (bits & np.uint64(7)).astype(np.uint8) & 1
        places = np.flatnonzero(is_maybe)  # the second bit saves nothing here
        at = np.minimum(np.searchsorted(self.keys, keys[places]), len(self.keys) - 1)
        is_hit = self.keys[at] == keys[places]
        return places[is_hit], at[is_hit]


def _counted(numbers: Places) -> tuple[Places, Places]:
    """Each once, sorted, and how many; quicker than `np.unique`."""
    ordered = np.sort(numbers)
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    return ordered[first], np.diff(first, append=len(ordered))


def _keys(units: Units, gram: int) -> Keys:
    """A hash of the `gram` units from each place on; none where there are fewer."""
    num = len(units) - gram + 1
    if num <= 0:
        return np.zeros(0, np.uint64)
    wide, keys = units.astype(np.uint64), np.zeros(num, np.uint64)
    for at in range(gram):
        keys *= _FACTOR
        keys += wide[at : at + num]
    return keys * _ODD
