"""From band keys to verified pairs: rows that share a band are compared, and only what is alike enough is a pair.

Band by band, so memory is a few numbers per row. In a bucket of few rows all are compared with all. In a crowded one
the best row is compared with all others; those like it are done with, and the rest choose their best again. A crowd of
rows that share a band but are not alike (a form filled in a thousand times) is parted by the next band's key; what
stays crowded then is compared with its neighbours only, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from danlu.data.twins.compiled import purse
from danlu.data.twins.folding import Places
from danlu.data.twins.groups import in_order
from danlu.data.twins.likeness import Ratios
from danlu.data.twins.loops_linking import are_likely, count_members, find_repeated, meet
from danlu.data.twins.minhash import NUM_VALUES, Hashes, agreement, distinct, least_agreement
from danlu.data.twins.threads import threaded

Keys = npt.NDArray[np.uint64]
_CROWD = 16
"""Rows in one bucket up to which all are compared with all."""
_CHEAPER = 2
"""How much less a key costs in numpy than a unit that is signed."""
_IDLE_ROUNDS = 2
_IDLE_RATIO = 0.1
_REACH = 4
_NUM_WAITING = 20_000_000
"""Candidate pairs, several times the same, that are held before they are made unique."""
_HALF = np.uint64(32)
_ONE_KEY, _LOW = np.uint64(1 << 32), np.uint64((1 << 32) - 1)


@dataclass(slots=True)
class Link:
    """`bands` (entries, bands) and `sketch` (entries, 2) of `Signed`; `compare` gives the similarity of pairs of
    entries. The smaller an entry's number, the better it is: the best of a crowd is its first."""

    bands: Hashes
    sketch: npt.NDArray[np.uint64]
    threshold: float
    compare: Callable[[Places, Places], Ratios]
    num_compared: int = 0
    num_crowded: int = 0
    """Rows of crowds that could not be parted, once for each band."""
    in_crowd: npt.NDArray[np.bool_] = field(init=False)
    _least: int = field(init=False)
    _is_quick: bool = False
    _known: Keys = field(init=False)
    """Pairs that were compared, in order."""
    _ratio: Ratios = field(init=False)

    def __post_init__(self) -> None:
        self.in_crowd = np.zeros(len(self.bands), bool)
        self._known, self._ratio = np.zeros(0, np.uint64), np.zeros(0, np.float32)
        self._least = least_agreement(self.threshold)

    def pairs(self) -> tuple[Places, Places, Ratios]:
        """(first, second, similarity) of the pairs found so far, first < second, in order."""
        close = self._ratio >= self.threshold
        return *_taken_apart(self._known[close]), self._ratio[close]

    def link(self, entries: Places) -> None:
        """Find the pairs among these entries."""
        if not len(entries):
            return
        is_all = len(entries) == len(self.bands)
        self._is_quick = purse.is_worth(len(entries) * self.bands.shape[1] // _CHEAPER)
        waiting: list[Keys] = []
        crowds: list[tuple[Places, Places, Places]] = []
        num_runs = 0

        def meet(band: int) -> tuple[Keys, Places, Places]:
            keys = self.bands[:, band] if is_all else self.bands[entries, band]
            if self._is_quick:
                return self._met_quickly(keys, entries)
            members, run = _runs(keys, entries)
            is_small = np.bincount(run, minlength=1)[run] <= _CROWD
            pairs = _all_pairs(members[is_small], run[is_small])
            return pairs[self._may_be_close(pairs)], members[~is_small], run[~is_small]

        for band, (keys, members, run) in enumerate(threaded(meet, range(self.bands.shape[1]))):
            waiting.append(keys)
            if len(members):
                crowds.append((np.full(len(members), band), members, run + num_runs))
                num_runs += int(run[-1]) + 1
            if sum(map(len, waiting)) > _NUM_WAITING:
                waiting = [_unique(waiting)]
        self._ask(_unique(waiting))
        if crowds:
            bands, members, run = (np.concatenate(part) for part in zip(*crowds, strict=True))
            self.in_crowd[members] = True
            self._part(bands, members, run)

    def _met_quickly(self, keys: Hashes, entries: Places) -> tuple[Keys, Places, Places]:
        """Pairs of one band that may be close, and the members of its crowds and their runs."""
        places = _repeated(keys)
        packed = _packed(keys[places], entries[places])
        num_pairs, num_crowded = count_members(packed, _CROWD)
        pairs, (members, run) = np.empty(num_pairs, np.uint64), np.empty((2, num_crowded), np.int64)
        most = NUM_VALUES - self._least
        num_pairs = meet(packed, _CROWD, self.sketch, most, pairs, members, run)
        return pairs[:num_pairs].copy(), members, run

    def _may_be_close(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Most chance meetings are far apart, and their bits say so."""
        if self._is_quick:
            found = np.empty(len(keys), bool)
            are_likely(keys, self.sketch, NUM_VALUES - self._least, found)
            return found
        first, second = _taken_apart(keys)
        is_likely: npt.NDArray[np.bool_] = agreement(self.sketch[first], self.sketch[second]) >= self._least
        return is_likely

    def _ask(self, keys: Keys) -> None:
        """Compare pairs that may be close and were not compared yet; `keys` are sorted and unique."""
        if len(self._known):
            at = np.minimum(np.searchsorted(self._known, keys), len(self._known) - 1)
            keys = keys[self._known[at] != keys]
        if not len(keys):
            return
        ratio = self.compare(*_taken_apart(keys))
        self.num_compared += len(keys)
        at = np.searchsorted(self._known, keys)
        self._known, self._ratio = np.insert(self._known, at, keys), np.insert(self._ratio, at, ratio)

    def _are_close(self, first: Places, second: Places) -> npt.NDArray[np.bool_]:
        keys = _key(first, second)
        close = self._may_be_close(keys)
        likely = keys[close]
        self._ask(distinct(likely))
        close[close] = self._ratio[np.searchsorted(self._known, likely)] >= self.threshold
        return close

    def _ask_about(self, pairs: list[Keys]) -> None:
        keys = np.concatenate([np.zeros(0, np.uint64), *pairs])
        self._ask(distinct(keys[self._may_be_close(keys)]))

    def _part(self, bands: Places, members: Places, run: Places) -> None:
        """Compare within the crowds of all bands, `members` ascending within each run; a run is of one band."""
        idle = np.zeros(int(run.max()) + 1, np.int64)
        while len(members):
            size = np.bincount(run, minlength=len(idle))
            is_small = size[run] <= _CROWD
            self._ask_about([_all_pairs(members[is_small], run[is_small])])
            is_tired = ~is_small & (idle[run] >= _IDLE_ROUNDS)
            self._part_further(bands[is_tired], members[is_tired], run[is_tired])
            going = ~is_small & ~is_tired
            bands, members, run = bands[going], members[going], run[going]
            is_best = np.diff(run, prepend=-1) != 0
            best = members[is_best][np.cumsum(is_best) - 1]
            is_close = np.zeros(len(members), bool)
            is_close[~is_best] = self._are_close(best[~is_best], members[~is_best])
            found = np.bincount(run, weights=is_close, minlength=len(idle))
            idle += (found < _IDLE_RATIO * size) & (found >= 0)
            left = ~is_best & ~is_close
            bands, members, run = bands[left], members[left], run[left]

    def _part_further(self, bands: Places, members: Places, run: Places) -> None:
        if not len(members):
            return
        following = self.bands[members, (bands + 1) % self.bands.shape[1]]
        members, run = _runs(run.astype(np.uint64) << _HALF | following, members)
        is_small = np.bincount(run, minlength=1)[run] <= _CROWD
        self._ask_about([_all_pairs(members[is_small], run[is_small])])
        members, run = members[~is_small], run[~is_small]
        self.num_crowded += len(members)
        self._ask_about([_at_distance(members, run, reach) for reach in range(1, _REACH + 1)])


def _runs(keys: npt.NDArray[np.unsignedinteger], members: Places) -> tuple[Places, npt.NDArray[np.int64]]:
    """Members that share a key with another, run by run; and the number of their run. Ascending in each, if `members`
    of wide keys are so."""
    if keys.dtype == np.uint32:  # key and member in one number: one sort without an index
        packed = _packed(keys, members)
        second = np.flatnonzero((packed[1:] ^ packed[:-1]) < _ONE_KEY) + 1  # has the key of the one before
    else:
        order = in_order(keys)
        keys, packed = keys[order], members[order].astype(np.uint64)
        second = np.flatnonzero(keys[1:] == keys[:-1]) + 1
    begins = np.flatnonzero(np.diff(second, prepend=-1) != 1)  # the one before is the first of its run
    places = np.insert(second, begins, second[begins] - 1)
    is_first = np.zeros(len(places), np.int64)
    is_first[begins + np.arange(len(begins))] = 1
    return (packed[places] & _LOW).astype(np.int64), np.cumsum(is_first) - 1


def _packed(keys: npt.NDArray[np.unsignedinteger], members: Places) -> Keys:
    """Key and member in one number, in order."""
    packed: Keys = keys.astype(np.uint64)
    packed <<= _HALF
    packed |= members.astype(np.uint64)
    packed.sort()
    return packed


def _repeated(keys: Hashes) -> Places:
    """Where keys stand that may stand elsewhere too: what is left to sort is a fraction."""
    places = np.empty(len(keys) + 1, np.int64)
    seen = np.zeros(1 << min(24, len(keys).bit_length() + 2), np.uint8)
    return places[: find_repeated(keys, seen, places)]


def _all_pairs(members: Places, run: npt.NDArray[np.int64]) -> Keys:
    longest = int(np.bincount(run, minlength=1).max()) if len(run) else 0
    return np.concatenate(
        [np.zeros(0, np.uint64), *(_at_distance(members, run, distance) for distance in range(1, longest))]
    )


def _at_distance(members: Places, run: npt.NDArray[np.int64], distance: int) -> Keys:
    together = run[distance:] == run[:-distance]
    return _key(members[:-distance][together], members[distance:][together])


def _key(first: Places, second: Places) -> Keys:
    return first.astype(np.uint64) << _HALF | second.astype(np.uint64)


def _taken_apart(keys: Keys) -> tuple[Places, Places]:
    return (keys >> _HALF).astype(np.int64), (keys & _LOW).astype(np.int64)


def _unique(keys: list[Keys]) -> Keys:
    return distinct(np.concatenate([np.zeros(0, np.uint64), *keys]))
