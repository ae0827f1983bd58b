"""Loops over folded units: the same as numpy does in `words.py`, `repetition.py` and `contaminated.py`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from danlu.data.twins.compiled import compiled

_ODD = np.uint64(0x9E3779B97F4A7C15)
_S16, _S29, _S31, _S32, _S48 = (np.uint64(shift) for shift in (16, 29, 31, 32, 48))
_PAIR = np.uint64(2**32 - 1)

Units = npt.NDArray[np.uint16]
Keys = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


@compiled
def find_cues(units: Units, maybe: npt.NDArray[np.uint8], keys: Keys, found: Places) -> int:
    """Fills `found` with the places at which the four units, or the two, are one of `keys`, and returns how many.
    `maybe` is of 65536: 1 where fours of that hash are among the keys, 2 where pairs are."""
    num = 0
    window = np.uint64(0)
    for at in range(min(3, len(units))):
        window |= np.uint64(units[at]) << np.uint64(16 * (at + 1))
    for at in range(len(units)):
        window >>= _S16
        if at + 3 < len(units):
            window |= np.uint64(units[at + 3]) << _S48
        pair = window & _PAIR
        of_four = maybe[(window * _ODD) >> _S48] & 1
        of_pair = maybe[(pair * _ODD) >> _S48] & 2
        if of_four | of_pair and ((of_four and _holds(keys, window)) or (of_pair and _holds(keys, pair))):
            found[num] = at
            num += 1
    return num


@compiled
def _holds(keys: Keys, key: np.uint64) -> bool:
    at = np.searchsorted(keys, key)
    return bool(at < len(keys) and keys[at] == key)


@compiled
def pick_grams(
    units: Units, begins: Places, ends: Places, below: np.uint64, owner: Places, picked: Keys, total: Places
) -> int:
    """Hashes below `below` of the twenty units from each place of each text on, as `repetition._keys` makes them.
    Fills `owner` and `picked`, and `total` for each text; returns how many."""
    num, longest = 0, 0
    for text in range(len(begins)):
        longest = max(longest, ends[text] - begins[text])
    keys = np.empty(longest + 1, np.uint64)
    for text in range(len(begins)):
        begin, size = begins[text], ends[text] - begins[text] - 2
        for at in range(size):
            keys[at] = (
                np.uint64(units[begin + at])
                | np.uint64(units[begin + at + 1]) << _S16
                | np.uint64(units[begin + at + 2]) << _S32
            )
        for step in (3, 6, 8):  # of 3 units, of 6, of 12, of 20
            size -= step
            for at in range(size):
                mixed = keys[at] * _ODD
                mixed ^= mixed >> _S29
                keys[at] = (mixed + keys[at + step]) * _ODD
        first = num
        for at in range(size):
            if keys[at] < below:
                owner[num], picked[num] = text, keys[at]
                num += 1
        total[text] = num - first
    return num


@compiled
def find_pieces(
    units: Units, gram: int, maybe: npt.NDArray[np.uint8], shift: np.uint64, keys: Keys, found: Places, which: Places
) -> int:
    """Where the `gram` units from a place on are one of `keys` (`minhash.long_keys`), and which; returns how many.
    `maybe` has a bit for each key's upper bits, those above `shift`."""
    num = 0
    size = len(units) - gram + 1
    for at in range(size):
        key = _three(units, at) * _ODD
        step = 3
        while step < gram - 2:
            key ^= key >> _S31
            key += _three(units, at + step)
            key *= _ODD
            step += 3
        key ^= key >> _S31
        key += _three(units, at + gram - 3)
        key *= _ODD
        bit = key >> shift
        if maybe[bit >> np.uint64(3)] >> (bit & np.uint64(7)) & np.uint64(1):
            place = np.searchsorted(keys, key)
            if place < len(keys) and keys[place] == key:
                found[num], which[num] = at, place
                num += 1
    return num


@compiled
def _three(units: Units, at: int) -> np.uint64:
    return np.uint64(units[at]) | np.uint64(units[at + 1]) << _S16 | np.uint64(units[at + 2]) << _S32
