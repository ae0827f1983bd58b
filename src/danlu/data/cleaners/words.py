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

from danlu.data.joined import Laid, Places, Units
from danlu.data.twins.compiled import purse
from danlu.data.twins.folding import fold, fold_all, fold_words

Keys = npt.NDArray[np.uint64]
_ODD = np.uint64(0x9E3779B97F4A7C15)
_S16, _S32, _S48 = (np.uint64(shift) for shift in (16, 32, 48))
_KNOWN: list[Cues] = []


class Cues:
    """Beginnings that all matches of an expression have, so that it is tried only where one stands: four characters of
    a beginning, two where it is of two or three in Han."""

    def __init__(self, *beginnings: str) -> None:
        keys = set()
        for text in beginnings:
            assert fold(text) == text, f"{text} is not what a fold leaves"
            assert len(text) > 3 or (len(text) > 1 and text[0] > "\u2e7f"), f"{text} is too short to be rare"
            keys.add(_key(text[:4] if len(text) > 3 else text[:2]))
        self.keys = frozenset(keys)
        self.number = len(_KNOWN)
        _KNOWN.append(self)


def _key(text: str) -> int:
    return int.from_bytes(text.encode("utf-16-le"), "little")


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
        table = _table(len(_KNOWN))
        places = table.find(self.units, quick=self.is_quick)
        return places, table.masks_at(self.units, places)


def _folded(laid: Laid, *, quick: bool) -> tuple[Units, Places]:
    if quick:
        folded = fold_all(laid.flat, quick=True)
        return folded.coarse, folded.coarse_at
    units, at = fold_words(laid.flat)  # each with a break behind, which nothing else folds to
    return units[units != ord("\n")], at - np.arange(len(at))


class _Table:
    """All cues together. `keys` are of four units or of two, sorted; `masks` say whose they are."""

    def __init__(self, known: Sequence[Cues]) -> None:
        self.keys = np.array(sorted({key for cues in known for key in cues.keys}), np.uint64)
        self.masks = np.array(
            [sum(1 << cues.number for cues in known if key in cues.keys) for key in self.keys.tolist()], np.uint64
        )
        self.maybe = np.zeros(65536, np.uint8)
        is_pair = self.keys < 2**32
        self.maybe[_hash(self.keys[~is_pair])] |= 1
        self.maybe[_hash(self.keys[is_pair])] |= 2

    def find(self, units: Units, *, quick: bool) -> Places:
        found = np.empty(len(units), np.int64)
        if quick:
            from danlu.data.cleaners.loops_words import find_cues  # compiled on the first call

            return found[: find_cues(units, self.maybe, self.keys, found)].copy()
        fours = _windows(units)
        is_cue = self.maybe[_hash(fours)] & 1 | self.maybe[_hash(fours & _PAIR)] & 2
        places = np.flatnonzero(is_cue)
        return places[self.masks_at(units, places) > 0]

    def masks_at(self, units: Units, places: Places) -> Keys:
        """The masks of the keys at these places; 0 where there is none."""
        padded = np.concatenate([units, np.zeros(3, np.uint16)])
        fours = np.zeros(len(places), np.uint64)
        for at in range(4):
            fours |= padded[places + at].astype(np.uint64) << np.uint64(16 * at)
        return self._masks_of(fours) | self._masks_of(fours & _PAIR)

    def _masks_of(self, keys: Keys) -> Keys:
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found: Keys = np.where(self.keys[at] == keys, self.masks[at], np.uint64(0))
        return found


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
