"""Texts folded (`twins.folding`), end to end, and where cues stand in them.

Without case, width, marks and spaces an expression finds what it looks for however it was spaced; and a cue, the first
few characters that all matches of an expression have, says where to try it at all. All cues of all rules are sought in
one run over the units; compiled where that pays (`twins.compiled`), with the same outcome.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from danlu.data.cleaners.loops_words import find_cues, fold_words, masks_at
from danlu.data.joined import Laid, Page, Places, Units
from danlu.data.twins import folding
from danlu.data.twins.compiled import purse
from danlu.data.twins.digests import PIECES

Keys = npt.NDArray[np.uint64]
_ODD = np.uint64(0x9E3779B97F4A7C15)
_S16, _S32, _S48 = (np.uint64(shift) for shift in (16, 32, 48))
_KNOWN: list[Cues] = []


class Cues:
    """Beginnings that all matches of an expression have, so that it is tried only where one stands: up to eight
    characters of a beginning; of two or three in Han, where four of other scripts are needed."""

    def __init__(self, *beginnings: str) -> None:
        for text in beginnings:
            assert folding.fold(text) == text, f"{text} is not what a fold leaves"
            assert len(text) > 3 or (len(text) > 1 and text[0] > "\u2e7f"), f"{text} is too short to be rare"
        self.beginnings = frozenset(text[:8] for text in beginnings)
        self.number = len(_KNOWN)
        _KNOWN.append(self)


class Words:
    """Folded texts: text i is `units[at[i] : at[i + 1]]`. `quick`: by compiled loops or without; by default where they
    pay."""

    def __init__(self, laid: Laid, *, quick: bool | None = None) -> None:
        self.is_quick = purse.is_worth(len(laid.units)) if quick is None else quick
        self.units, self.at = _folded(laid, quick=self.is_quick)
        self.length: Places = np.diff(self.at)

    def text(self, number: int) -> str:
        return self.units[self.at[number] : self.at[number + 1]].tobytes().decode("utf-16-le", "surrogatepass")

    def cues_of(self, cues: Cues) -> Places:
        """The places in `units` where one of these cues stands."""
        places, masks = self._cues
        found: Places = places[(masks >> np.uint64(cues.number)) & np.uint64(1) > 0]
        return found

    @functools.cached_property
    def _cues(self) -> tuple[Places, Keys]:
        """Where any cue stands, and a bit for each of `_KNOWN` that it is one of."""
        return _table(len(_KNOWN)).find(self.units, quick=self.is_quick)


def _folded(laid: Laid, *, quick: bool) -> tuple[Units, Places]:
    if quick:
        return _folded_quickly(laid)
    units, at = folding.fold_words(laid.flat)  # each with a break behind, which nothing else folds to
    return units[units != ord("\n")], at - np.arange(len(at))


def _folded_quickly(laid: Laid) -> tuple[Units, Places]:
    if isinstance(laid, Page) and laid.is_pairs:
        folded = laid.folded  # of three pieces, the second one empty
        return folded.coarse, np.delete(folded.coarse_at, slice(1, None, PIECES))
    units, ends = laid.units, laid.unit_ends
    points, kinds = folding.points_beyond(units)
    flat, at, is_hard = np.empty(len(units), np.uint16), np.zeros(len(ends) + 1, np.int64), np.zeros(len(ends), bool)
    fold_words(units, ends, folding.joint_table(), points, kinds, flat, at, is_hard)
    flat, hard = flat[: at[-1]], np.flatnonzero(is_hard).tolist()
    if hard:
        return folding.spliced(flat, at, hard, [folding.encode(folding.words_of(laid.flat[text])) for text in hard])
    return flat, at


class _Table:
    """All cues together. `keys` are the first four units of each, or two of one in Han, sorted: what is sought.
    `masks_of` says, by a cue's length, whose it is; for the loops end to end: those of length n + 1 are
    `of_all[first[n] : first[n + 1]]`."""

    def __init__(self, known: Sequence[Cues]) -> None:
        masks: dict[int, dict[int, int]] = {}
        for cues in known:
            for text in cues.beginnings:
                of_size = masks.setdefault(len(text), {})
                of_size[_key(text)] = of_size.get(_key(text), 0) | 1 << cues.number
        self.masks_of = {
            size: (np.array(sorted(found), np.uint64), np.array([found[key] for key in sorted(found)], np.uint64))
            for size, found in masks.items()
        }
        none = np.zeros(0, np.uint64)
        sought = [self.masks_of.get(size, (none, none)) for size in range(1, 9)]
        self.first = np.cumsum([0, *(len(keys) for keys, _ in sought)])
        self.of_all = np.concatenate([keys for keys, _ in sought]), np.concatenate([own for _, own in sought])
        begun = {text[:4] if len(text) > 3 else text[:2] for cues in known for text in cues.beginnings}
        self.keys = np.array(sorted(map(_key, begun)), np.uint64)
        self.maybe = np.zeros(65536, np.uint8)
        is_pair = self.keys < 2**32
        self.maybe[_hash(self.keys[~is_pair])] |= 1
        self.maybe[_hash(self.keys[is_pair])] |= 2

    def find(self, units: Units, *, quick: bool) -> tuple[Places, Keys]:
        """Where cues stand, and the masks that say whose they are."""
        if quick:
            found = np.empty(len(units), np.int64)
            places = found[: find_cues(units, self.maybe, self.keys, found)]
            masks = masks_at(units, places, *self.of_all, self.first)
        else:
            fours = _windows(units)
            places = np.flatnonzero(self.maybe[_hash(fours)] & 1 | self.maybe[_hash(fours & _PAIR)] & 2)
            masks = self._masks_at(units, places)
        return places[masks > 0], masks[masks > 0]

    def _masks_at(self, units: Units, places: Places) -> Keys:
        padded = np.concatenate([units, np.zeros(8, np.uint16)])
        masks = np.zeros(len(places), np.uint64)
        key = np.zeros(len(places), np.uint64)
        for size in range(1, 9):
            unit = padded[places + size - 1].astype(np.uint64)
            key = key | unit << np.uint64(16 * (size - 1)) if size < 5 else key * _ODD + unit
            if size in self.masks_of:
                keys, of_keys = self.masks_of[size]
                at = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
                masks |= np.where(keys[at] == key, of_keys[at], np.uint64(0))
        return masks


def _key(text: str) -> int:
    """Four units as they are, more of them mixed in."""
    units = [ord(char) for char in text]
    key = sum(unit << 16 * at for at, unit in enumerate(units[:4]))
    for unit in units[4:]:
        key = (key * int(_ODD) + unit) % 2**64
    return key


_PAIR = np.uint64(2**32 - 1)


def _hash(keys: Keys) -> npt.NDArray[np.uint16]:
    return (keys * _ODD >> _S48).astype(np.uint16)


def _windows(units: Units) -> Keys:
    """The four units from each place on; zeros behind the end."""
    wide = np.concatenate([units, np.zeros(3, np.uint16)]).astype(np.uint64)
    fours: Keys = wide[:-3] | wide[1:-2] << _S16 | wide[2:-1] << _S32 | wide[3:] << _S48
    return fours


@functools.lru_cache(1)
def _table(num_known: int) -> _Table:
    assert num_known <= 64, "a bit for each"
    return _Table(_KNOWN[:num_known])
