"""Which of some hundred thousand grams stand in all of the training text, by a loop: `overlap.py` finds the same with
numpy. The hashes of 13-grams in vector instructions, then one bit each, of a table that stays in the cache.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from danlu.data.twins.compiled import compiled
from danlu.data.twins.draws import ODD

Keys = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
_STEP = 512
"""Grams hashed at once."""
FIRST_BITS = 18
_FIRST, _BIT, _WORD = (np.uint64(64 - num) for num in (FIRST_BITS, 23, 17))
_ONE, _SIXTY_THREE = np.uint64(1), np.uint64(63)
_S16, _S31, _S32 = (np.uint64(shift) for shift in (16, 31, 32))


@compiled
def _three(units: npt.NDArray[np.uint16], at: int) -> np.uint64:
    return np.uint64(units[at]) | np.uint64(units[at + 1]) << _S16 | np.uint64(units[at + 2]) << _S32


@compiled
def _hash13(units: npt.NDArray[np.uint16], num: int, three: Keys, keys: Keys) -> None:
    """`minhash.long_keys` of 13-grams."""
    for at in range(num + 10):
        three[at] = _three(units, at)
    third, sixth, ninth, tenth = three[3:], three[6:], three[9:], three[10:]
    for at in range(num):
        key = three[at] * ODD
        key = ((key ^ key >> _S31) + third[at]) * ODD
        key = ((key ^ key >> _S31) + sixth[at]) * ODD
        key = ((key ^ key >> _S31) + ninth[at]) * ODD
        keys[at] = ((key ^ key >> _S31) + tenth[at]) * ODD


@compiled
def _note(key: np.uint64, wanted: Keys, first: Places, seen: npt.NDArray[np.bool_], bits: Keys) -> None:
    """A gram that may be wanted: it is seen if it is, and once all with its bit are, its bit is no more looked at."""
    slot = np.int64(key >> _FIRST)
    is_open = False
    for place in range(first[slot], first[slot + 1]):
        if wanted[place] == key:
            seen[place] = True
        is_open |= not seen[place] and wanted[place] >> _BIT == key >> _BIT
    if not is_open:
        bits[np.int64(key >> _WORD)] &= ~(_ONE << ((key >> _BIT) & _SIXTY_THREE))


@compiled
def mark_seen(
    units: npt.NDArray[np.uint16], start: Places, rows: npt.NDArray[np.bool_], wanted: Keys, first: Places,
    seen: npt.NDArray[np.bool_], bits: Keys,
) -> None:  # fmt: skip
    """Which of the `wanted` 13-grams (sorted) stand in the texts of these rows. `first` is where those begin that have
    their `FIRST_BITS` highest bits in common; of `bits` that one is set that a gram's highest ones name."""
    three, keys = np.empty(_STEP + 10, np.uint64), np.empty(_STEP, np.uint64)
    for row in range(len(rows)):
        if not rows[row]:
            continue
        own = units[start[row] : start[row + 1]]
        for begin in range(0, len(own) - 12, _STEP):
            num = min(_STEP, len(own) - 12 - begin)
            _hash13(own[begin:], num, three, keys)
            for at in range(num):
                key = keys[at]
                if (bits[np.int64(key >> _WORD)] >> ((key >> _BIT) & _SIXTY_THREE)) & _ONE:
                    _note(key, wanted, first, seen, bits)


@compiled
def bits_of(wanted: Keys) -> Keys:
    bits = np.zeros(1 << 17, np.uint64)
    for place in range(len(wanted)):
        bits[np.int64(wanted[place] >> _WORD)] |= _ONE << ((wanted[place] >> _BIT) & _SIXTY_THREE)
    return bits
