"""contaminated: rows that hold an item of an evaluation set. What a model has learnt by heart cannot be asked of it.

An item is its question, and its question with its answer. Long ones are sought in pieces of 13 characters, as is usual
for contamination (Brown et al., "Language Models are Few-Shot Learners", 2020), short ones in pieces of 6: a row that
holds more than a half (of short ones four fifths) of an item's pieces holds the item. Those of a short one must stand
near each other, for in a book all of them stand somewhere. Pieces that many items share, the words of a form, count for
none of them. Questions of a few characters must be the row's question to the letter.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.core.files import sha256_json
from danlu.data.cleaners.cleaner import Batch, Finding
from danlu.data.cleaners.loops_words import find_pieces, is_inside, is_near
from danlu.data.cleaners.words import Words
from danlu.data.joined import Laid, Places, Units
from danlu.data.sample import Sample

Keys = npt.NDArray[np.uint64]
_LONG, _SHORT = 13, 6
_LONG_FROM, _SHORT_FROM = 40, 9
"""Folded characters of an item from which it is sought in long and in short pieces."""
_HALF, _MOST = 0.5, 0.8
_NEAR = 2
"""A short item's pieces are counted within this many times its own length."""
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
            _Index.of([row for row in rows if len(row[0]) >= _LONG_FROM], _LONG, _HALF, is_near=False),
            _Index.of([row for row in rows if _SHORT_FROM <= len(row[0]) < _LONG_FROM], _SHORT, _MOST, is_near=True),
        )
        self.gate = _gate([units for units, _ in rows], *self.indices)
        self.least, self.reach = self.indices[1].wanted_near(self.gate.keys)
        self.tiny = {units.tobytes(): name for units, name in rows if 0 < len(units) < _SHORT_FROM}
        self.digest = sha256_json(sorted(hashlib.sha256(units.tobytes()).hexdigest() for units, _ in rows))

    def key(self) -> dict[str, Any]:
        return {"version": 3, "items": self.digest}

    def judge(self, batch: Batch) -> Mapping[int, Finding]:
        found: dict[int, Finding] = {}
        words = batch.words
        for index, rows in zip(self.indices, self._suspects(words), strict=True):
            if rows:
                units, start = _gathered(words, rows)
                for row, share, name in index.held_by(units, start, quick=words.is_quick):
                    found.setdefault(rows[row], Finding("contaminated", {"share": round(100 * share), "item": name}))
        if self.tiny:
            length = np.where(batch.is_answer_of, batch.folded_asked.length, batch.folded_body.length)
            for row in np.flatnonzero((length > 0) & (length < _SHORT_FROM)).tolist():
                asked = batch.folded_asked if batch.is_answer(row) else batch.folded_body
                if item := self.tiny.get(asked.units(row).tobytes()):
                    found.setdefault(row, Finding("contaminated", {"share": 100, "item": item}))
        return found

    def _suspects(self, words: Words) -> tuple[list[int], list[int]]:
        """Rows that may hold a long item, and a short one: those with a piece of the gate inside a piece of a long
        item, or among as many pieces of short ones as an item with that piece needs."""
        places, which = self.gate.find(words.units, quick=words.is_quick)
        if not len(places):
            return [], []
        long, short = self.indices
        is_short, at = self.least[which] > 0, words.at[::2]
        near = places[is_short], self.least[which[is_short]], self.reach[which[is_short]]
        if words.is_quick:
            inside = is_inside(words.units, places, _LONG - _SHORT, long.gram, _FACTOR, *long.pieces.sought)
            among = is_near(words.units, *near, short.gram, _FACTOR, *short.pieces.sought)
        else:
            inside, among = _is_inside(words.units, places, long), _is_near(words.units, *near, short)
        return _rows_at(at, places[inside]), _rows_at(at, near[0][among])


def _rows_at(at: Places, places: Places) -> list[int]:
    found: list[int] = np.unique(np.searchsorted(at, places, "right") - 1).tolist()
    return found


def _gathered(words: Words, rows: Sequence[int]) -> tuple[Units, Places]:
    """The units of these rows end to end, and where each begins and the last ends."""
    at = words.at[::2]
    parts = [words.units[at[row] : at[row + 1]] for row in rows]
    return np.concatenate([np.zeros(0, np.uint16), *parts]), np.cumsum([0, *map(len, parts)])


def _is_inside(units: Units, places: Places, index: _Index) -> npt.NDArray[np.bool_]:
    """Whether the short piece at each of these places lies within one of the index's, ends of rows left aside."""
    known, _ = index.pieces.find(units, quick=False)
    first = np.searchsorted(known, places - (index.gram - _SHORT))
    inside: npt.NDArray[np.bool_] = first < np.searchsorted(known, places, "right")
    return inside


def _is_near(units: Units, places: Places, least: Places, reach: Places, index: _Index) -> npt.NDArray[np.bool_]:
    """Whether so many of the index's pieces begin within reach of each place, ends of rows left aside."""
    known, _ = index.pieces.find(units, quick=False)
    num = np.searchsorted(known, places + reach, "right") - np.searchsorted(known, places - reach)
    near: npt.NDArray[np.bool_] = num >= least
    return near


@dataclass(frozen=True, slots=True)
class _Pieces:
    """`keys` of pieces of `gram` units, sorted. `maybe` has two bits for each, of its upper bits (those above `shift`)
    and of those that follow."""

    gram: int
    keys: Keys
    maybe: npt.NDArray[np.uint8]
    shift: np.uint64

    @classmethod
    def of(cls, keys: Keys, gram: int) -> _Pieces:
        num_bits = max(16, (len(keys) * _FILTER_SPARSE).bit_length())
        shift = np.uint64(64 - num_bits)
        maybe = np.zeros(1 << num_bits, np.uint8)
        for bit in (keys >> shift, keys << _SECOND >> shift):
            maybe[bit.astype(np.int64)] = 1
        return cls(gram, keys, np.packbits(maybe, bitorder="little"), shift)

    @property
    def sought(self) -> tuple[npt.NDArray[np.uint8], np.uint64, Keys]:
        """As the loops ask for it."""
        return self.maybe, self.shift, self.keys

    def find(self, units: Units, *, quick: bool) -> tuple[Places, Places]:
        """Where one of `keys` stands, and which."""
        if not len(self.keys):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        if quick:
            found, which = np.empty(len(units), np.int64), np.empty(len(units), np.int64)
            num = find_pieces(units, self.gram, _FACTOR, *self.sought, found, which)
            return found[:num], which[:num]
        keys = _keys(units, self.gram)
        bits = keys >> self.shift
        is_maybe = self.maybe[(bits >> np.uint64(3)).astype(np.int64)] >> (bits & np.uint64(7)).astype(np.uint8) & 1
        places = np.flatnonzero(is_maybe)  # the second bit saves nothing here
        at = np.minimum(np.searchsorted(self.keys, keys[places]), len(self.keys) - 1)
        is_hit = self.keys[at] == keys[places]
        return places[is_hit], at[is_hit]


def _gate(items: Sequence[Units], long: _Index, short: _Index) -> _Pieces:
    """Short pieces of which every row that holds an item has one, however it came to hold it: of a long item one in
    each of more pieces than it may lack, of a short one so many themselves. The rarest, so few other rows have one."""
    items = [units for units in items if len(units) >= _SHORT_FROM]
    threes = [_keys(units, 3) for units in items]
    joined = np.concatenate([np.zeros(0, np.uint64), *threes])
    _, number, count = np.unique(joined, return_inverse=True, return_counts=True)
    weights = np.split(np.log(count)[number], np.cumsum([len(own) for own in threes])[:-1])
    scores = [own[:-3] + own[1:-2] + own[2:-1] + own[3:] for own in weights] if items else []
    sixes = [_keys(units, _SHORT) for units in items]
    longs = [(keys, score, units) for units, keys, score in zip(items, sixes, scores, strict=True)
             if len(units) >= _LONG_FROM]  # fmt: skip
    chosen = [
        keys[_enough(score, _wanted(_keys(units, _LONG), long, item), (1 - long.least) * long.total[item])]
        for item, (keys, score, units) in enumerate(longs)
    ]
    if len(short.pieces.keys):
        known, place = np.unique(np.concatenate(sixes), return_index=True)
        key = np.repeat(short.pieces.keys, np.diff(short.first))
        score = np.concatenate(scores)[place[np.searchsorted(known, key)]]
        order = np.lexsort((score, short.owners))
        owner = short.owners[order]
        rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
        chosen.append(key[order][rank <= (1 - short.least) * short.total[owner]])
    return _Pieces.of(np.unique(np.concatenate([np.zeros(0, np.uint64), *chosen])), _SHORT)


def _wanted(keys: Keys, index: _Index, item: int) -> list[int]:
    """Of each place the number of its piece in the index, -1 where the item does not count it."""
    at = np.minimum(np.searchsorted(index.pieces.keys, keys), len(index.pieces.keys) - 1)
    own = set(np.flatnonzero(index.owners == item).tolist())
    first = index.first
    is_own = {place for place in set(at.tolist()) if not own.isdisjoint(range(first[place], first[place + 1]))}
    is_known = index.pieces.keys[at] == keys
    return [place if known and place in is_own else -1 for place, known in zip(at.tolist(), is_known, strict=True)]


def _enough(score: npt.NDArray[np.float64], wanted: Sequence[int], least: float) -> list[int]:
    """Places of short pieces, of low score, that lie in more than `least` of the long pieces wanted, or in all."""
    all_wanted = {number for number in wanted if number >= 0}
    places: list[int] = []
    met: set[int] = set()
    for place in np.argsort(score, kind="stable").tolist():
        if len(met) > least or len(met) == len(all_wanted):
            break
        around = {number for number in wanted[max(0, place - (_LONG - _SHORT)) : place + 1] if number >= 0}
        if not around <= met:
            met |= around
            places.append(place)
    return places


@dataclass(frozen=True, slots=True)
class _Index:
    """The items of key i of `pieces` are `owners[first[i] : first[i + 1]]`; `total` pieces of each item.
    `is_near`: they must stand near each other."""

    pieces: _Pieces
    least: float
    is_near: bool
    names: list[str]
    first: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]

    @classmethod
    def of(cls, items: Sequence[tuple[Units, str]], gram: int, least: float, *, is_near: bool) -> _Index:
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
        total = np.bincount(owner, minlength=len(items))
        names = [name for _, name in items]
        return cls(_Pieces.of(distinct, gram), least, is_near, names, np.append(first, len(keys)), owner[order], total)

    @property
    def gram(self) -> int:
        return self.pieces.gram

    def wanted_near(self, keys: Keys) -> tuple[Places, Places]:
        """For each of the keys of how many pieces it must be one for a row to hold an item of its, and how far from it
        the others may stand; 0 for a key that is none of the index."""
        num, least, reach = len(self.pieces.keys), np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
        if num:
            total = self.total[self.owners]
            wanted = np.maximum(np.ceil(self.least * total - 1e-6).astype(np.int64), 1)
            at = np.minimum(np.searchsorted(self.pieces.keys, keys), num - 1)
            is_own = self.pieces.keys[at] == keys
            least[is_own] = np.minimum.reduceat(wanted, self.first[:-1])[at[is_own]]
            reach[is_own] = _NEAR * (np.maximum.reduceat(total, self.first[:-1])[at[is_own]] + self.gram)
        return least, reach

    def held_by(self, units: Units, start: Places, *, quick: bool = False) -> Iterable[tuple[int, float, str]]:
        """(row, share, item) of the item that each row holds most of, where that is enough. Row i is `units[start[i] :
        start[i + 1]]`."""
        num_keys = len(self.pieces.keys)
        if not num_keys:
            return
        places, at = self.pieces.find(units, quick=quick)
        row = np.searchsorted(start, places, "right") - 1
        is_own = places + self.gram <= start[row + 1]  # not those that reach into the next row
        places, all_rows, all_at = places[is_own], row[is_own], at[is_own]
        pairs = _counted(all_rows * num_keys + all_at)[0]  # a piece counts once for a row
        row, at = pairs // num_keys, pairs % num_keys
        num = self.first[at + 1] - self.first[at]
        flat = np.repeat(self.first[at] - (np.cumsum(num) - num), num) + np.arange(num.sum())
        both, count = _counted(np.repeat(row, num) * len(self.names) + self.owners[flat])
        row, item = both // len(self.names), both % len(self.names)
        share = count / self.total[item]
        is_held = share > self.least
        row, item, share = row[is_held], item[is_held], share[is_held]
        if self.is_near:
            for number, (own_row, own_item) in enumerate(zip(row.tolist(), item.tolist(), strict=True)):
                some = slice(*np.searchsorted(all_rows, [own_row, own_row + 1]).tolist())
                share[number] = self._share_nearby(own_item, places[some], all_at[some])
        order = np.lexsort((item, -share, row))
        for place in order[np.diff(row[order], prepend=-1) != 0].tolist():
            if share[place] > self.least:
                yield int(row[place]), float(share[place]), self.names[item[place]]

    def _share_nearby(self, item: int, places: Places, at: Places) -> float:
        """The largest share of the item's pieces that stand near each other; `at` says which stands at a place."""
        own = np.isin(at, np.searchsorted(self.first, np.flatnonzero(self.owners == item), "right") - 1)
        total = int(self.total[item])
        reach = _NEAR * (total + self.gram)
        met: Counter[int] = Counter()
        waiting: deque[tuple[int, int]] = deque()
        most = 0
        for place, piece in zip(places[own].tolist(), at[own].tolist(), strict=True):
            waiting.append((place, piece))
            met[piece] += 1
            while waiting[0][0] + reach < place:
                gone = waiting.popleft()[1]
                met[gone] -= 1
                if not met[gone]:
                    del met[gone]
            most = max(most, len(met))
        return most / total


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
