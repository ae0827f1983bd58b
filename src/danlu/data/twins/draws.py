"""The numbers that MinHash multiplies with: drawn once and for all, the same in every version of every library."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from danlu.data.twins.columns import NUM_BANDS, NUM_PERMUTATIONS

ROWS = NUM_PERMUTATIONS // NUM_BANDS
"""Values in a band."""
ODD = np.uint64(0x9E3779B97F4A7C15)
OTHER = np.uint64(0xC2B2AE3D27D4EB4F)


def _draws(seed: int, num: int) -> list[int]:
    """splitmix64."""
    found, state = [], seed
    for _ in range(num):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
        found.append(mixed ^ mixed >> 31)
    return found


FACTORS: npt.NDArray[np.uint32] = np.array([draw >> 32 | 1 for draw in _draws(1, NUM_BANDS * ROWS)], np.uint32)
MIXERS: npt.NDArray[np.uint64] = np.array([draw | 1 for draw in _draws(2, ROWS)], np.uint64)
