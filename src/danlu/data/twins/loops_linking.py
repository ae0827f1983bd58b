"""Which of very many keys stand there more than once, by a loop; numpy finds the same by sorting them all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from danlu.data.twins.compiled import compiled


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
