"""Pairs of near-identical texts: exact Jaccard similarity of character 3-grams, found by prefix filtering.

Two sets with Jaccard >= t must share one of the rarest (1 - t) of either's grams (Chaudhuri et al. 2006; Bayardo et
al., "Scaling Up All Pairs Similarity Search", 2007), so only texts that share such a rare gram are compared. Plain
numpy, one thread, the same result everywhere. Long texts are represented by the 2,048 smallest gram hashes (bottom-k
sketch); grams so crowded that pairing would explode compare neighbours only, and are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.int64]
_SKETCH = 2048
_CROWD = 64
"""Texts sharing one rare gram up to which all are paired; beyond it each is paired with the next few."""
_REACH = 8
_BATCH = 200_000
_MAX_ASKED = 2000


@dataclass(slots=True)
class Similarity:
    """Near-identical pairs (left < right), and the grams to ask further questions of."""

    threshold: float
    pairs: list[tuple[int, int]]
    num_crowded: int
    num_asked: int = 0
    _grams: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    _bounds: Array = field(default_factory=lambda: np.zeros(1, np.int64))

    def nearest(self, asked: Sequence[int], among: Sequence[int]) -> tuple[float, int | None, int | None]:
        """The highest similarity between an asked text and one among the others, exact for up to 2,000 of them."""
        step = max(1, -(-len(asked) // _MAX_ASKED))
        chosen = list(asked)[::step]
        self.num_asked = len(chosen) if among else 0
        best: tuple[float, int | None, int | None] = (0.0, None, None)
        if not chosen or not among:
            return best
        sizes = np.diff(self._bounds)
        is_among = np.zeros(len(sizes), bool)
        is_among[list(among)] = True
        owners = np.repeat(np.arange(len(sizes)), sizes)
        keep = is_among[owners]
        order = np.argsort(self._grams[keep], kind="stable")
        grams, holders = self._grams[keep][order], owners[keep][order]
        for index in chosen:
            own = self._grams[self._bounds[index] : self._bounds[index + 1]]
            starts, ends = np.searchsorted(grams, own, "left"), np.searchsorted(grams, own, "right")
            found = [holders[start:end] for start, end in zip(starts, ends, strict=True) if end > start]
            if not found:
                continue
            texts, shared = np.unique(np.concatenate(found), return_counts=True)
            ratios = shared / (len(own) + sizes[texts] - shared)
            at = int(ratios.argmax())
            if ratios[at] > best[0]:
                best = float(ratios[at]), int(index), int(texts[at])
        return best


def similar_pairs(texts: Sequence[str], threshold: float) -> Similarity:
    """All pairs of different texts whose 3-gram Jaccard is at least `threshold`; equal texts are not paired here."""
    assert 0 < threshold <= 1, "a similarity is between 0 and 1"
    grams, bounds = _gram_sets(texts)
    first_of = {text: index for index, text in reversed(list(enumerate(texts)))}
    distinct = np.array(sorted(first_of.values()), dtype=np.int64)
    candidates, num_crowded = _candidates(grams, bounds, distinct, threshold)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(candidates), _BATCH):
        batch = candidates[start : start + _BATCH]
        close = batch[_jaccard(grams, bounds, batch) >= threshold - 1e-9]
        pairs += [(int(left), int(right)) for left, right in close]
    return Similarity(threshold, pairs, num_crowded, _grams=grams, _bounds=bounds)


def _gram_sets(texts: Sequence[str]) -> tuple[Array, Array]:
    """Each text's set of 3-grams as sorted 63-bit numbers, end to end, and where each begins. Exact: no two collide."""
    sets = []
    for text in texts:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.int64)
        if len(points) < 3:
            points = np.concatenate([points, np.zeros(3 - len(points), np.int64)])
        found = np.unique((points[:-2] << 42) | (points[1:-1] << 21) | points[2:])
        sets.append(_smallest(found) if len(found) > _SKETCH else found)
    bounds = np.zeros(len(sets) + 1, np.int64)
    np.cumsum([len(found) for found in sets], out=bounds[1:])
    return (np.concatenate(sets) if sets else np.zeros(0, np.int64)), bounds


def _smallest(grams: Array) -> Array:
    """The grams with the smallest hashes: the same choice in every text."""
    mixed = grams.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    chosen: Array = np.sort(grams[np.argsort(mixed ^ (mixed >> np.uint64(29)), kind="stable")[:_SKETCH]])
    return chosen


def _candidates(grams: Array, bounds: Array, distinct: Array, threshold: float) -> tuple[Array, int]:
    """Pairs (left < right) that share one of their rarest grams and are of like size, each once."""
    none = np.zeros((0, 2), np.int64)
    if not len(distinct):
        return none, 0
    sizes = np.diff(bounds)
    is_distinct = np.zeros(len(sizes), bool)
    is_distinct[distinct] = True
    owners = np.repeat(np.arange(len(sizes)), sizes)
    keep = is_distinct[owners]
    owners = owners[keep]
    _, gram_numbers, counts = np.unique(grams[keep], return_inverse=True, return_counts=True)
    order = np.lexsort((gram_numbers, counts[gram_numbers], owners))  # within each text, the rarest first
    owners, gram_numbers = owners[order], gram_numbers[order]
    kept_sizes = np.where(is_distinct, sizes, 0)
    begins = np.concatenate([[0], np.cumsum(kept_sizes)[:-1]])
    rank = np.arange(len(owners)) - begins[owners]
    prefix = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
    in_prefix = rank < prefix[owners]
    owners, gram_numbers = owners[in_prefix], gram_numbers[in_prefix]
    order = np.lexsort((owners, sizes[owners], gram_numbers))  # within each gram by size: like sizes are neighbours
    owners, gram_numbers = owners[order], gram_numbers[order]
    crowd = np.bincount(gram_numbers)[gram_numbers]
    found = []
    for distance in range(1, _CROWD):
        if distance >= len(owners):
            break
        near, far = slice(None, -distance), slice(distance, None)
        together = gram_numbers[near] == gram_numbers[far]
        together &= (crowd[near] <= _CROWD) | (distance <= _REACH)
        together &= sizes[owners[near]] >= threshold * sizes[owners[far]] - 1e-9
        if together.any():
            found.append(np.stack([owners[near][together], owners[far][together]], axis=1))
    num_crowded = int((np.bincount(gram_numbers) > _CROWD).sum())
    if not found:
        return none, num_crowded
    pairs = np.sort(np.concatenate(found), axis=1)
    keys = np.unique(pairs[:, 0] * len(sizes) + pairs[:, 1])
    return np.stack([keys // len(sizes), keys % len(sizes)], axis=1), num_crowded


def _jaccard(grams: Array, bounds: Array, pairs: Array) -> npt.NDArray[np.float64]:
    """Jaccard similarity of each pair of sets."""
    sizes = np.diff(bounds)
    left, right = pairs[:, 0], pairs[:, 1]
    swap = sizes[left] > sizes[right]
    left, right = np.where(swap, right, left), np.where(swap, left, right)
    # Sets are sorted and lie in order of their text, so (text, gram) is sorted overall: one search finds all.
    names, numbers = np.unique(grams, return_inverse=True)
    keys = np.repeat(np.arange(len(sizes)), sizes) * len(names) + numbers
    lengths = sizes[left]
    owners = np.repeat(np.arange(len(pairs)), lengths)
    offsets = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    wanted = right[owners] * len(names) + numbers[bounds[left][owners] + offsets]
    at = np.searchsorted(keys, wanted)
    is_shared = (at < len(keys)) & (keys[np.minimum(at, len(keys) - 1)] == wanted)
    shared = np.bincount(owners, weights=is_shared, minlength=len(pairs))
    ratios: npt.NDArray[np.float64] = shared / (sizes[left] + sizes[right] - shared)
    return ratios
