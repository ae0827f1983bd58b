"""Which items share a batch: best fit in shuffled windows, the same for the same (seed, epoch).

Only items that are large against the budget are placed first, longest before shorter; the rest come in random order.
Sorting all of them would fill a pack with items of one length, and items of one length are often of one kind: the
model would see all long documents in one step and all short chats in another.
Items are only named here, never cut: each is in exactly one pack per epoch. Isolation of packed documents is the
attention's work (bounds). Best fit: Johnson, "Near-optimal bin packing algorithms", 1973.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
import numpy.typing as npt

from danlu.core.errors import DataError

Indices = npt.NDArray[np.int64]
_LARGE = 4
"""Items above a quarter of the budget leave gaps that matter."""
_WINDOW = 8192
"""Items packed together: enough to fill packs well, few enough that packs of an epoch stay in random order."""


def pack(lengths: npt.ArrayLike, budget: int, seed: int, epoch: int) -> list[Indices]:
    """Packs of item indices, in training order; each pack's lengths sum to at most `budget` tokens.

    DataError when an item alone is longer than the budget: cutting is the encoder's decision, not ours.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if len(sizes) and int(sizes.max()) > budget:
        longest = int(sizes.argmax())
        raise DataError("dataset.over_budget", given=int(sizes[longest]), item=longest, expected=budget)
    assert not len(sizes) or sizes.min() > 0, "an item holds at least one token"
    random = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = random.permutation(len(sizes))
    packs: list[Indices] = []
    left_over: list[int] = []
    for start in range(0, len(order), _WINDOW):
        window = [*left_over, *order[start : start + _WINDOW].tolist()]
        bins = _best_fit(window, sizes, budget)
        left_over = []
        if start + _WINDOW < len(order) and len(bins) > 1:  # the emptiest pack is filled by the next window
            left_over = bins.pop(min(range(len(bins)), key=lambda at: int(sizes[bins[at]].sum())))
        packs += [np.array(bins[at], dtype=np.int64) for at in random.permutation(len(bins))]
    return packs


def cut(items: Indices, lengths: npt.ArrayLike, budget: int) -> list[Indices]:
    """These items in packs of at most `budget` tokens each; none of them is longer."""
    bins = _best_fit(items.tolist(), np.asarray(lengths, dtype=np.int64), budget)
    return [np.array(found, dtype=np.int64) for found in bins]


def fill_ratio(packs: list[Indices], lengths: npt.ArrayLike, budget: int) -> float:
    """Tokens packed over room paid for."""
    sizes = np.asarray(lengths, dtype=np.int64)
    return sum(int(sizes[indices].sum()) for indices in packs) / (budget * len(packs)) if packs else 1.0


def _best_fit(items: list[int], sizes: Indices, budget: int) -> list[list[int]]:
    """Each item into the fullest pack that still takes it; large ones first, the small ones fill the gaps."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (room left, number of the pack), sorted
    large = sorted(
        (item for item in items if sizes[item] * _LARGE > budget), key=lambda item: (-int(sizes[item]), item)
    )
    small = [item for item in items if sizes[item] * _LARGE <= budget]
    for item in [*large, *small]:
        size = int(sizes[item])
        at = bisect_left(room, (size, -1))
        if at == len(room):
            bins.append([item])
            left, number = budget - size, len(bins) - 1
        else:
            left, number = room.pop(at)
            left -= size
            bins[number].append(item)
        if left:
            insort(room, (left, number))
    return bins
