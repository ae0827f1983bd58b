"""BLAKE2b of many short texts, eight side by side: a loop that compilers turn into vector instructions.

RFC 7693, without keys. Imported only where numba is; who calls it sorts the texts by their number of blocks, so that
eight neighbours are done at the same time.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from danlu.data.twins.compiled import compiled, woven

BLOCK = 64
"""Units of two bytes in a block."""
_LANES = 8
_CHAIN, _COUNT, _LAST, _MESSAGE = 0, 8 * _LANES, 9 * _LANES, 10 * _LANES
_NUM_WORDS = 26 * _LANES
"""Chain, bytes so far, whether the block is the last, message: all in one array at places that a compiler knows, or it
would have to fear that they overlap. Word w of a lane lies `w * _LANES + lane` behind the beginning."""
Word: TypeAlias = np.uint64
Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
START: Words = np.array(
    [0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
     0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179], np.uint64
)  # fmt: skip
_R32, _R24, _R16, _R63 = (np.uint64(turn) for turn in (32, 24, 16, 63))
_IV0, _IV1, _IV2, _IV3, _IV4, _IV5, _IV6, _IV7 = START
_ALL, _NONE = np.uint64(2**64 - 1), np.uint64(0)
_L32, _L40, _L48, _L1 = (np.uint64(turn) for turn in (32, 40, 48, 1))


@woven
def _mix(a: Word, b: Word, c: Word, d: Word, x: Word, y: Word) -> tuple[Word, Word, Word, Word]:
    """G of the RFC."""
    a = a + b + x
    d ^= a
    d = d >> _R32 | d << _L32
    c += d
    b ^= c
    b = b >> _R24 | b << _L40
    a = a + b + y
    d ^= a
    d = d >> _R16 | d << _L48
    c += d
    b ^= c
    return a, b >> _R63 | b << _L1, c, d


Eight: TypeAlias = tuple[Word, Word, Word, Word, Word, Word, Word, Word]
State: TypeAlias = tuple[Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word]


@woven
def _round(
    v: State, m0: Word, m1: Word, m2: Word, m3: Word, m4: Word, m5: Word, m6: Word, m7: Word,
    m8: Word, m9: Word, m10: Word, m11: Word, m12: Word, m13: Word, m14: Word, m15: Word,
) -> State:  # fmt: skip
    """Columns, then diagonals; the message in the order of this round."""
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3 = v
    a0, b0, c0, d0 = _mix(a0, b0, c0, d0, m0, m1)
    a1, b1, c1, d1 = _mix(a1, b1, c1, d1, m2, m3)
    a2, b2, c2, d2 = _mix(a2, b2, c2, d2, m4, m5)
    a3, b3, c3, d3 = _mix(a3, b3, c3, d3, m6, m7)
    a0, b1, c2, d3 = _mix(a0, b1, c2, d3, m8, m9)
    a1, b2, c3, d0 = _mix(a1, b2, c3, d0, m10, m11)
    a2, b3, c0, d1 = _mix(a2, b3, c0, d1, m12, m13)
    a3, b0, c1, d2 = _mix(a3, b0, c1, d2, m14, m15)
    return a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3


@woven
def _eight(words: Words, at: int) -> Eight:
    """Eight words of a lane; `at` is the place of the first."""
    return (words[at], words[at + _LANES], words[at + 2 * _LANES], words[at + 3 * _LANES], words[at + 4 * _LANES],
            words[at + 5 * _LANES], words[at + 6 * _LANES], words[at + 7 * _LANES])  # fmt: skip


@compiled
def _compress(words: Words) -> None:
    """F of the RFC on every lane. All rounds are written out: only a loop without loops inside becomes vector
    instructions."""
    for lane in range(_LANES):
        m0, m1, m2, m3, m4, m5, m6, m7 = _eight(words, _MESSAGE + lane)
        m8, m9, m10, m11, m12, m13, m14, m15 = _eight(words, _MESSAGE + 8 * _LANES + lane)
        count, last = words[_COUNT + lane], words[_LAST + lane]
        a0, a1, a2, a3, b0, b1, b2, b3 = _eight(words, _CHAIN + lane)
        v = (a0, a1, a2, a3, b0, b1, b2, b3, _IV0, _IV1, _IV2, _IV3, _IV4 ^ count, _IV5, _IV6 ^ last, _IV7)
        v = _round(v, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15)
        v = _round(v, m14, m10, m4, m8, m9, m15, m13, m6, m1, m12, m0, m2, m11, m7, m5, m3)
        v = _round(v, m11, m8, m12, m0, m5, m2, m15, m13, m10, m14, m3, m6, m7, m1, m9, m4)
        v = _round(v, m7, m9, m3, m1, m13, m12, m11, m14, m2, m6, m5, m10, m4, m0, m15, m8)
        v = _round(v, m9, m0, m5, m7, m2, m4, m10, m15, m14, m1, m11, m12, m6, m8, m3, m13)
        v = _round(v, m2, m12, m6, m10, m0, m11, m8, m3, m4, m13, m7, m5, m15, m14, m1, m9)
        v = _round(v, m12, m5, m1, m15, m14, m13, m4, m10, m0, m7, m6, m3, m9, m2, m8, m11)
        v = _round(v, m13, m11, m7, m14, m12, m1, m3, m9, m5, m0, m15, m4, m8, m6, m2, m10)
        v = _round(v, m6, m15, m14, m9, m11, m3, m0, m8, m12, m2, m13, m7, m1, m4, m10, m5)
        v = _round(v, m10, m2, m8, m4, m7, m6, m1, m5, m15, m11, m9, m14, m3, m12, m13, m0)
        v = _round(v, m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15)
        v = _round(v, m14, m10, m4, m8, m9, m15, m13, m6, m1, m12, m0, m2, m11, m7, m5, m3)
        words[_CHAIN + lane] ^= v[0] ^ v[8]
        words[_CHAIN + _LANES + lane] ^= v[1] ^ v[9]
        words[_CHAIN + 2 * _LANES + lane] ^= v[2] ^ v[10]
        words[_CHAIN + 3 * _LANES + lane] ^= v[3] ^ v[11]
        words[_CHAIN + 4 * _LANES + lane] ^= v[4] ^ v[12]
        words[_CHAIN + 5 * _LANES + lane] ^= v[5] ^ v[13]
        words[_CHAIN + 6 * _LANES + lane] ^= v[6] ^ v[14]
        words[_CHAIN + 7 * _LANES + lane] ^= v[7] ^ v[15]


@woven
def _word(own: npt.NDArray[np.uint16], at: int) -> Word:
    return (np.uint64(own[at]) | np.uint64(own[at + 1]) << np.uint64(16)
            | np.uint64(own[at + 2]) << np.uint64(32) | np.uint64(own[at + 3]) << np.uint64(48))  # fmt: skip


@compiled
def _read(own: npt.NDArray[np.uint16], words: Words, lane: int) -> None:
    """One block of a text, or what is left of it, into its lane of the message; zeros behind its end."""
    if len(own) == BLOCK:
        for word in range(16):
            words[_MESSAGE + word * _LANES + lane] = _word(own, 4 * word)
        return
    num_whole = len(own) // 4
    for word in range(num_whole):
        words[_MESSAGE + word * _LANES + lane] = _word(own, 4 * word)
    for word in range(num_whole, 16):
        words[_MESSAGE + word * _LANES + lane] = 0
    for place in range(4 * num_whole, len(own)):
        words[_MESSAGE + num_whole * _LANES + lane] |= np.uint64(own[place]) << np.uint64(16 * (place & 3))


@compiled
def digest_all(
    units: npt.NDArray[np.uint16], order: Places, begin: Places, length: Places, start: Places, starts: Words,
    digests: Words,
) -> None:  # fmt: skip
    """Into `digests` (texts, 2) the first two words for each text `units[begin : begin + length]`; `starts[start]` are
    the eight words that its digest begins with."""
    words = np.zeros(_NUM_WORDS, np.uint64)
    for first in range(0, len(order), _LANES):
        texts = order[first : first + _LANES]
        num_blocks = 1
        for lane in range(len(texts)):
            num_blocks = max(num_blocks, -(-length[texts[lane]] // BLOCK))
            for word in range(8):
                words[_CHAIN + word * _LANES + lane] = starts[start[texts[lane]], word]
        for block in range(num_blocks):
            for lane in range(len(texts)):
                text = texts[lane]
                left = length[text] - BLOCK * block
                at = begin[text] + BLOCK * block
                _read(units[at : at + max(0, min(left, BLOCK))], words, lane)
                words[_COUNT + lane] = np.uint64(2 * (BLOCK * block + min(left, BLOCK)))
                words[_LAST + lane] = _ALL if left <= BLOCK else _NONE
            _compress(words)
            for lane in range(len(texts)):
                text = texts[lane]
                if (length[text] - 1) // BLOCK == block or (block == 0 and length[text] == 0):
                    digests[text, 0], digests[text, 1] = words[_CHAIN + lane], words[_CHAIN + _LANES + lane]
