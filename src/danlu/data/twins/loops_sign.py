"""MinHash as a loop: the same as `minhash.sign` does with numpy.

Five permutations, one band, at a time over all grams of a text: multiply and take the least, sixteen grams in one
vector instruction where the processor has such.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from danlu.data.twins.columns import NUM_BANDS
from danlu.data.twins.compiled import compiled
from danlu.data.twins.draws import FACTORS, MIXERS, ODD, OTHER, ROWS

_NUM = NUM_BANDS * ROWS
assert ROWS == 5, "the loop over a band is written out"
_EVEN = 32
"""Grams are filled up to a multiple of this with the last one: no remainder, and the set is the same."""
_S2, _S16, _S29, _S31, _S32 = (np.uint64(shift) for shift in (2, 16, 29, 31, 32))

Units = npt.NDArray[np.uint16]
Hashes = npt.NDArray[np.uint32]
Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


@compiled
def _mixed(key: np.uint64) -> np.uint32:
    key = key * ODD
    key ^= key >> _S31
    return np.uint32((key * OTHER) >> _S32)


@compiled
def _hash_grams(units: Units, num: int, gram: int, hashes: Hashes) -> Hashes:
    """The hashes of the `num` grams that begin `units`, filled up."""
    if gram == 3:
        for at in range(num):
            key = np.uint64(units[at]) | np.uint64(units[at + 1]) << _S16 | np.uint64(units[at + 2]) << _S32
            hashes[at] = _mixed(key)
    else:
        for at in range(num):
            key = np.uint64(units[at]) | np.uint64(units[at + 1]) << _S16 | np.uint64(units[at + 2]) << _S32
            key *= ODD
            key ^= key >> _S29
            key += (np.uint64(units[at + 3]) | np.uint64(units[at + 4]) << _S16) * OTHER
            key ^= key >> _S32
            hashes[at] = _mixed(key * ODD)
    return _filled(hashes, num)


@compiled
def _hash_short(units: Units, hashes: Hashes) -> Hashes:
    """A text shorter than a gram is one gram of its own."""
    key = np.uint64(0)
    for at in range(len(units)):
        key |= np.uint64(units[at]) << np.uint64(16 * at)
    hashes[0] = _mixed(key)
    return _filled(hashes, 1)


@compiled
def _filled(hashes: Hashes, num: int) -> Hashes:
    full = -(-num // _EVEN) * _EVEN
    for at in range(num, full):
        hashes[at] = hashes[num - 1]
    return hashes[:full]


@compiled
def _least(hashes: Hashes, least: Hashes) -> None:
    """Lowers `least` (permutations) to the least of these grams."""
    for first in range(0, _NUM, 5):
        a, b, c, d, e = FACTORS[first], FACTORS[first + 1], FACTORS[first + 2], FACTORS[first + 3], FACTORS[first + 4]
        least_a, least_b, least_c = least[first], least[first + 1], least[first + 2]
        least_d, least_e = least[first + 3], least[first + 4]
        for at in range(len(hashes)):
            value = hashes[at]
            least_a = min(least_a, np.uint32(value * a))
            least_b = min(least_b, np.uint32(value * b))
            least_c = min(least_c, np.uint32(value * c))
            least_d = min(least_d, np.uint32(value * d))
            least_e = min(least_e, np.uint32(value * e))
        least[first], least[first + 1], least[first + 2] = least_a, least_b, least_c
        least[first + 3], least[first + 4] = least_d, least_e


@compiled
def _write(least: Hashes, bands: Hashes, sketch: Words) -> None:
    """Band keys and sketch of a text."""
    for band in range(NUM_BANDS):
        key = np.uint64(0)
        for row in range(ROWS):
            key += np.uint64(least[band * ROWS + row]) * MIXERS[row]
        key ^= key >> _S29
        bands[band] = np.uint32((key * ODD) >> _S32)
    for half in range(2):
        word = np.uint64(0)
        for number in range(64 * half, min(64 * half + 64, _NUM)):  # first bit of a byte is its highest
            bit = np.uint64((least[number] >> np.uint32(5)) & np.uint32(1))
            word |= bit << np.uint64((number % 64 // 8) * 8 + 7 - number % 8)
        sketch[half] = word


@compiled
def sign_texts(
    units: Units, start: Places, length: Places, head: Places, gram: int,
    bands: Hashes, sketch: Words, head_bands: Hashes, head_sketch: Words,
) -> None:  # fmt: skip
    """Fills the last four; the others as in `minhash.Spans`."""
    longest = 0
    for text in range(len(start)):
        longest = max(longest, length[text])
    hashes, least = np.empty(longest + 2 * _EVEN, np.uint32), np.empty(_NUM, np.uint32)
    num_heads = 0
    for text in range(len(start)):
        own = units[start[text] : start[text] + length[text]]
        num = length[text] - gram + 1
        least[:] = np.uint32(0xFFFFFFFF)
        if num < 1:
            _least(_hash_short(own, hashes), least)
        elif head[text] > 0:
            cut = head[text] - gram + 1
            _least(_hash_grams(own, cut, gram, hashes), least)
            _write(least, head_bands[num_heads], head_sketch[num_heads])
            num_heads += 1
            _least(_hash_grams(own[cut:], num - cut, gram, hashes), least)
        else:
            _least(_hash_grams(own, num, gram, hashes), least)
        _write(least, bands[text], sketch[text])
