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
from danlu.data.cleaners.cleaner import Batch, Finding, Folded
from danlu.data.sample import Sample
from danlu.data.twins.folding import Units
from danlu.data.twins.minhash import long_keys

Keys = npt.NDArray[np.uint64]
_LONG, _SHORT = 13, 6
_LONG_FROM, _SHORT_FROM = 40, 9
"""Folded characters of an item from which it is sought in long and in short pieces."""
_HALF, _MOST = 0.5, 0.8
_SHARED = 5
"""Items that may have a piece in common before it counts as a form's words; a hundredth of many items."""
_FILTER_BITS = 23


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
        folded = Folded(list(texts))
        names = list(texts.values())
        rows = [(folded.units[begin : end - 1], name) for begin, end, name in
                zip(folded.unit_start[:-1], folded.unit_start[1:], names, strict=True)]  # fmt: skip
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
        texts = [f"{asked}\n{body}" if asked else body for asked, body in zip(batch.asked, batch.body, strict=True)]
        folded = Folded(texts)
        for index in self.indices:
            for row, share, name in index.held_by(folded.units, folded.unit_start):
                found.setdefault(row, Finding("contaminated", {"share": round(100 * share), "item": name}))
        for row in range(len(batch)) if self.tiny else ():
            asked = batch.folded_asked if batch.is_answer(row) else batch.folded_body
            begin, end = asked.unit_start[row], asked.unit_start[row + 1] - 1
            if end - begin < _SHORT_FROM and (item := self.tiny.get(asked.units[begin:end].tobytes())):
                found.setdefault(row, Finding("contaminated", {"share": 100, "item": item}))
        return found


@dataclass(frozen=True, slots=True)
class _Index:
    """`keys` sorted; the items of key i are `owners[first[i] : first[i + 1]]`; `total` pieces of each item."""

    gram: int
    least: float
    names: list[str]
    keys: Keys
    first: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]
    maybe: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, items: Sequence[tuple[Units, str]], gram: int, least: float) -> _Index:
        own = [np.unique(long_keys(units, gram)) for units, _ in items]
        keys = np.concatenate([np.zeros(0, np.uint64), *own])
        owner = np.repeat(np.arange(len(items)), [len(found) for found in own])
        distinct, number, count = np.unique(keys, return_inverse=True, return_counts=True)
        is_rare = count[number] <= max(_SHARED, len(items) // 100)
        num_rare = np.bincount(owner, weights=is_rare, minlength=len(items))
        is_wanted = is_rare | (num_rare[owner] == 0)  # an item that is nothing but a form's words keeps them
        keys, owner = keys[is_wanted], owner[is_wanted]
        order = np.argsort(keys, kind="stable")
        distinct, first = np.unique(keys[order], return_index=True)
        maybe = np.zeros(1 << _FILTER_BITS, bool)
        maybe[(distinct >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)] = True
        total = np.bincount(owner, minlength=len(items))
        names = [name for _, name in items]
        return cls(gram, least, names, distinct, np.append(first, len(keys)), owner[order], total, maybe)

    def held_by(self, units: Units, start: npt.NDArray[np.int64]) -> Iterable[tuple[int, float, str]]:
        """(row, share, item) of the item that each row holds most of, where that is enough."""
        if not len(self.keys):
            return
        keys = long_keys(units, self.gram)
        places = np.flatnonzero(self.maybe[(keys >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)])
        at = np.minimum(np.searchsorted(self.keys, keys[places]), len(self.keys) - 1)
        is_hit = self.keys[at] == keys[places]
        row = np.searchsorted(start, places[is_hit], "right") - 1
        pairs = np.unique(row * len(self.keys) + at[is_hit])  # a piece counts once for a row
        row, at = pairs // len(self.keys), pairs % len(self.keys)
        num = self.first[at + 1] - self.first[at]
        flat = np.repeat(self.first[at] - (np.cumsum(num) - num), num) + np.arange(num.sum())
        both, count = np.unique(np.repeat(row, num) * len(self.names) + self.owners[flat], return_counts=True)
        row, item = both // len(self.names), both % len(self.names)
        share = count / self.total[item]
        order = np.lexsort((item, -share, row))
        for place in order[np.diff(row[order], prepend=-1) != 0].tolist():
            if share[place] > self.least:
                yield int(row[place]), float(share[place]), self.names[item[place]]
