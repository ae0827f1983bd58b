"""Who shares a bucket with whom, and is not far from it, by loops: the same as `linking.py` does with numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from danlu.data.twins.compiled import compiled

Keys = npt.NDArray[np.uint64]
_HALF, _LOW = np.uint64(32), np.uint64((1 << 32) - 1)


@compiled
def find_repeated(keys: npt.NDArray[np.uint32], seen: npt.NDArray[np.uint8], places: npt.NDArray[np.int64]) -> int:
    """Into `places` where keys stand that may stand elsewhere too, how many these are: every key that does, and a few
    others. `seen` is empty, of a power of two."""
    shift = np.uint32(32)
    size = len(seen)
    while size > 1:
        shift -= np.uint32(1)
        size >>= 1
    for at in range(len(keys)):
        slot = keys[at] >> shift
        seen[slot] = min(seen[slot] + 1, 2)
    num = 0
    for at in range(len(keys)):
        places[num] = at
        num += seen[keys[at] >> shift] == 2
    return num


@compiled
def count_members(packed: Keys, crowd: int) -> tuple[int, int]:
    """Of sorted numbers with a key in the upper half: how many pairs share their key in buckets of up to `crowd`, and
    how many members larger buckets have."""
    num_pairs = num_crowded = begin = 0
    for at in range(1, len(packed) + 1):
        if at == len(packed) or packed[at] >> _HALF != packed[begin] >> _HALF:
            if at - begin <= crowd:
                num_pairs += (at - begin) * (at - begin - 1) // 2
            else:
                num_crowded += at - begin
            begin = at
    return num_pairs, num_crowded


@compiled
def _ones(word: np.uint64) -> np.uint64:
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@compiled
def _num_differing(sketch: Keys, first: np.uint64, second: np.uint64) -> np.uint64:
    return _ones(sketch[first, 0] ^ sketch[second, 0]) + _ones(sketch[first, 1] ^ sketch[second, 1])


@compiled
def are_likely(pairs: Keys, sketch: Keys, most: int, likely: npt.NDArray[np.bool_]) -> None:
    """Which pairs' sketches differ in `most` bits at most."""
    for at in range(len(pairs)):
        likely[at] = _num_differing(sketch, pairs[at] >> _HALF, pairs[at] & _LOW) <= most


@compiled
def meet(
    packed: Keys, crowd: int, sketch: Keys, most: int, pairs: Keys, crowded: npt.NDArray[np.int64],
    run: npt.NDArray[np.int64],
) -> int:  # fmt: skip
    """Into `pairs` those of `count_members` whose sketches differ in `most` bits, how many these are; into `crowded`
    the members of larger buckets, into `run` the number of each one's bucket."""
    num_pairs = num_crowded = num_runs = begin = 0
    for at in range(1, len(packed) + 1):
        if at < len(packed) and packed[at] >> _HALF == packed[begin] >> _HALF:
            continue
        if at - begin > crowd:
            for member in range(begin, at):
                crowded[num_crowded], run[num_crowded] = packed[member] & _LOW, num_runs
                num_crowded += 1
            num_runs += 1
        else:
            for one in range(begin, at):
                first = packed[one] & _LOW
                for other in range(one + 1, at):
                    second = packed[other] & _LOW
                    if _num_differing(sketch, first, second) <= most:
                        pairs[num_pairs] = first << _HALF | second
                        num_pairs += 1
        begin = at
    return num_pairs
