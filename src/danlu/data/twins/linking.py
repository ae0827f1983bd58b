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

from danlu.data.twins.folding import Places
from danlu.data.twins.likeness import Ratios
from danlu.data.twins.minhash import Hashes, agreement, distinct, least_agreement

Keys = npt.NDArray[np.uint64]
_CROWD = 16
"""Rows in one bucket up to which all are compared with all."""
_IDLE_ROUNDS = 2
_IDLE_RATIO = 0.1
_REACH = 4
_NUM_WAITING = 20_000_000
"""Candidate pairs, several times the same, that are held before they are made unique."""
_HALF = np.uint64(32)


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
    _known: Keys = field(init=False)
    _ratio: Ratios = field(init=False)

    def __post_init__(self) -> None:
        self.in_crowd = np.zeros(len(self.bands), bool)
        self._known, self._ratio = np.zeros(0, np.uint64), np.zeros(0, np.float32)

    def pairs(self) -> tuple[Places, Places, Ratios]:
        """(first, second, similarity) of the pairs found so far, first < second, in order."""
        close = self._ratio >= self.threshold
        return *_taken_apart(self._known[close]), self._ratio[close]

    def link(self, entries: Places) -> None:
        """Find the pairs among these entries."""
        waiting: list[Keys] = []
        crowds: list[tuple[int, Places, Places]] = []
        for band in range(self.bands.shape[1]):
            members, run = _runs(self.bands[entries, band], entries)
            is_small = np.bincount(run, minlength=1)[run] <= _CROWD
            waiting.append(_all_pairs(members[is_small], run[is_small]))
            if not is_small.all():
                crowds.append((band, members[~is_small], run[~is_small]))
            if sum(map(len, waiting)) > _NUM_WAITING:
                waiting = [_unique(waiting)]
        self._ask(_unique(waiting))
        for band, members, run in crowds:
            self.in_crowd[members] = True
            self._part(band, members, run)

    def _ask(self, keys: Keys) -> None:
        """Compare pairs that were not compared yet; `keys` are sorted and unique."""
        if len(self._known):
            at = np.minimum(np.searchsorted(self._known, keys), len(self._known) - 1)
            keys = keys[self._known[at] != keys]
        if not len(keys):
            return
        first, second = _taken_apart(keys)
        # most chance meetings are far apart, and their bits say so
        is_near = agreement(self.sketch[first], self.sketch[second]) >= least_agreement(self.threshold)
        ratio = np.zeros(len(keys), np.float32)
        ratio[is_near] = self.compare(first[is_near], second[is_near])
        self.num_compared += int(is_near.sum())
        at = np.searchsorted(self._known, keys)
        self._known, self._ratio = np.insert(self._known, at, keys), np.insert(self._ratio, at, ratio)

    def _are_close(self, first: Places, second: Places) -> npt.NDArray[np.bool_]:
        keys = _key(first, second)
        self._ask(distinct(keys))
        close: npt.NDArray[np.bool_] = self._ratio[np.searchsorted(self._known, keys)] >= self.threshold
        return close

    def _part(self, band: int, members: Places, run: Places) -> None:
        """Compare within crowds, `members` ascending within each run."""
        idle = np.zeros(int(run.max()) + 1, np.int64)
        while len(members):
            size = np.bincount(run, minlength=len(idle))
            is_small = size[run] <= _CROWD
            self._ask(distinct(_all_pairs(members[is_small], run[is_small])))
            is_tired = ~is_small & (idle[run] >= _IDLE_ROUNDS)
            self._part_further(band, members[is_tired], run[is_tired])
            going = ~is_small & ~is_tired
            members, run = members[going], run[going]
            is_best = np.diff(run, prepend=-1) != 0
            best = members[is_best][np.cumsum(is_best) - 1]
            is_close = np.zeros(len(members), bool)
            is_close[~is_best] = self._are_close(best[~is_best], members[~is_best])
            found = np.bincount(run, weights=is_close, minlength=len(idle))
            idle += (found < _IDLE_RATIO * size) & (found >= 0)
            left = ~is_best & ~is_close
            members, run = members[left], run[left]

    def _part_further(self, band: int, members: Places, run: Places) -> None:
        if not len(members):
            return
        following = self.bands[members, (band + 1) % self.bands.shape[1]]
        members, run = _runs(run.astype(np.uint64) << _HALF | following, members)
        is_small = np.bincount(run, minlength=1)[run] <= _CROWD
        self._ask(distinct(_all_pairs(members[is_small], run[is_small])))
        members, run = members[~is_small], run[~is_small]
        self.num_crowded += len(members)
        self._ask(_unique([_at_distance(members, run, reach) for reach in range(1, _REACH + 1)]))


def _runs(keys: npt.NDArray[np.unsignedinteger], members: Places) -> tuple[Places, npt.NDArray[np.int64]]:
    """Members that share a key with another, run by run, ascending in each; and the number of their run."""
    if keys.dtype == np.uint32:  # key and member in one number: one sort without an index
        packed = np.sort(keys.astype(np.uint64) << _HALF | members.astype(np.uint64))
        keys, members = packed >> _HALF, (packed & np.uint64(0xFFFFFFFF)).astype(np.int64)
    else:
        order = np.lexsort((members, keys))
        keys, members = keys[order], members[order]
    same = keys[1:] == keys[:-1]
    is_in = np.zeros(len(keys), bool)
    is_in[1:] |= same
    is_in[:-1] |= same
    is_first = is_in.copy()
    is_first[1:] &= ~same
    return members[is_in], (np.cumsum(is_first) - 1)[is_in]


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
    return (keys >> _HALF).astype(np.int64), (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _unique(keys: list[Keys]) -> Keys:
    return distinct(np.concatenate([np.zeros(0, np.uint64), *keys]))
