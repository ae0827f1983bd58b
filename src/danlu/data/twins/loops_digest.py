"""BLAKE2b of many short texts, eight side by side: a loop that compilers turn into vector instructions.

RFC 7693, without keys. Imported only where numba is; who calls it sorts the texts by their number of blocks, so that
eight neighbours are done at the same time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from danlu.data.twins.compiled import compiled, inlined

BLOCK = 64
"""Units of two bytes in a block."""
_LANES = 16
Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
START: Words = np.array(
    [0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
     0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179], np.uint64
)  # fmt: skip
_SIGMA = (
    "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d",
    "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0",
    "0123456789abcdef", "ea489fd61c02b753",
)  # fmt: skip
_SCHEDULE: Places = np.array([[int(digit, 16) for digit in row] for row in _SIGMA], np.int64)
_A, _B, _C, _D = (np.uint64(turn) for turn in (32, 24, 16, 63))
_FULL = np.uint64(64)


@inlined
def _mix(block: Words, a: int, b: int, c: int, d: int, x: int) -> None:
    """G of the RFC on every lane: of the state's words a, b, c, d, and message words x and x + 1 of this round."""
    for lane in range(_LANES):
        one, two, three, four = block[a, lane], block[b, lane], block[c, lane], block[d, lane]
        one = one + two + block[16 + x, lane]
        four ^= one
        four = four >> _A | four << (_FULL - _A)
        three += four
        two ^= three
        two = two >> _B | two << (_FULL - _B)
        one = one + two + block[17 + x, lane]
        four ^= one
        four = four >> _C | four << (_FULL - _C)
        three += four
        two ^= three
        two = two >> _D | two << (_FULL - _D)
        block[a, lane], block[b, lane], block[c, lane], block[d, lane] = one, two, three, four


@compiled
def _rounds(block: Words, message: Words) -> None:
    """`block` (32, lanes): the state, and room for the message in the order of a round: all in one array at places that
    a compiler knows, or it would have to fear that they overlap."""
    for number in range(12):
        for word in range(16):
            from_word = _SCHEDULE[number, word]
            for lane in range(_LANES):
                block[16 + word, lane] = message[from_word, lane]
        _mix(block, 0, 4, 8, 12, 0)
        _mix(block, 1, 5, 9, 13, 2)
        _mix(block, 2, 6, 10, 14, 4)
        _mix(block, 3, 7, 11, 15, 6)
        _mix(block, 0, 5, 10, 15, 8)
        _mix(block, 1, 6, 11, 12, 10)
        _mix(block, 2, 7, 8, 13, 12)
        _mix(block, 3, 4, 9, 14, 14)


@compiled
def _read(units: npt.NDArray[np.uint16], at: int, left: int, lane: int, message: Words) -> None:
    """One block of a text into its lane of the message, zeros behind its end."""
    own = units[at : at + max(0, min(left, BLOCK))]
    num_whole = len(own) // 4
    for word in range(num_whole):
        message[word, lane] = (
            np.uint64(own[4 * word]) | np.uint64(own[4 * word + 1]) << np.uint64(16)
            | np.uint64(own[4 * word + 2]) << np.uint64(32) | np.uint64(own[4 * word + 3]) << np.uint64(48)
        )  # fmt: skip
    for word in range(num_whole, 16):
        message[word, lane] = 0
    for place in range(4 * num_whole, len(own)):
        message[num_whole, lane] |= np.uint64(own[place]) << np.uint64(16 * (place & 3))


@compiled
def digest_all(
    units: npt.NDArray[np.uint16], order: Places, begin: Places, length: Places, start: Places, starts: Words,
    digests: Words,
) -> None:  # fmt: skip
    """Into `digests` (texts, 2) the first two words for each text `units[begin : begin + length]`; `starts[start]` are
    the eight words that its digest begins with."""
    message, state, chain = (np.zeros((16, _LANES), np.uint64), np.zeros((32, _LANES), np.uint64),
                             np.zeros((8, _LANES), np.uint64))  # fmt: skip
    for first in range(0, len(order), _LANES):
        texts = order[first : first + _LANES]
        num_blocks = 1
        for lane in range(len(texts)):
            num_blocks = max(num_blocks, -(-length[texts[lane]] // BLOCK))
            for word in range(8):
                chain[word, lane] = starts[start[texts[lane]], word]
        for block in range(num_blocks):
            for word in range(8):
                for lane in range(_LANES):
                    state[word, lane] = chain[word, lane]
                    state[8 + word, lane] = START[word]
            for lane in range(len(texts)):
                text = texts[lane]
                left = length[text] - BLOCK * block
                _read(units, begin[text] + BLOCK * block, left, lane, message)
                state[12, lane] ^= np.uint64(2 * (BLOCK * block + min(left, BLOCK)))
                if left <= BLOCK:
                    state[14, lane] = ~state[14, lane]
            _rounds(state, message)
            for lane in range(len(texts)):
                if block == 0 or length[texts[lane]] > BLOCK * block:
                    for word in range(8):
                        chain[word, lane] ^= state[word, lane] ^ state[8 + word, lane]
        for lane in range(len(texts)):
            digests[texts[lane], 0], digests[texts[lane], 1] = chain[0, lane], chain[1, lane]
