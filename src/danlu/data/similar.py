"""Pairs of near-identical texts: exact Jaccard similarity of character 3-grams, found by prefix filtering.

Two sets with Jaccard >= t must share one of the rarest (1 - t) of either's grams (Chaudhuri et al. 2006; Bayardo et
al., "Scaling Up All Pairs Similarity Search", 2007), so only texts that share such a rare gram are compared. Plain
numpy, one thread, the same result everywhere. Long texts are represented by the 2,048 smallest gram hashes (bottom-k
sketch); grams so crowded that pairing would explode compare neighbours only, and are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """Near-identical pairs (left < right), and the texts' grams to ask further questions of."""

    threshold: float
    pairs: list[tuple[int, int]]
    num_crowded: int
    grams: Grams
    num_asked: int = 0

    def nearest(self, asked: Sequence[int], among: Sequence[int]) -> tuple[float, int | None, int | None]:
        """The highest similarity between an asked text and one among the others, exact for up to 2,000 of them."""
        chosen = list(asked)[:: max(1, -(-len(asked) // _MAX_ASKED))]
        self.num_asked = len(chosen) if among else 0
        best: tuple[float, int | None, int | None] = (0.0, None, None)
        if not chosen or not among:
            return best
        sizes, size = self.grams.sizes, len(self.grams)
        is_among = np.zeros(size, bool)
        is_among[list(among)] = True
        keep = is_among[self.grams.owners]
        holders = np.sort(self.grams.numbers[keep] * size + self.grams.owners[keep])  # by gram, then by text
        for index in chosen:
            own = self.grams.of(index) * size
            starts, ends = np.searchsorted(holders, own), np.searchsorted(holders, own + size)
            found = [
                holders[start:end] - gram for start, end, gram in zip(starts, ends, own, strict=True) if end > start
            ]
            if not found:
                continue
            texts, shared = np.unique(np.concatenate(found), return_counts=True)
            ratios = shared / (len(own) + sizes[texts] - shared)
            at = int(ratios.argmax())
            if ratios[at] > best[0]:
                best = float(ratios[at]), int(index), int(texts[at])
        return best


class Grams:
    """Each text's set of 3-grams, end to end, as sorted numbers; the rarer a gram, the smaller its number."""

    def __init__(self, texts: Sequence[str]) -> None:
        sets = [_gram_set(text) for text in texts]
        self.sizes: Array = np.array([len(found) for found in sets], dtype=np.int64)
        self.bounds: Array = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self.owners: Array = np.repeat(np.arange(len(sets)), self.sizes)
        raw = np.concatenate(sets) if sets else np.zeros(0, np.int64)
        _, numbers, counts = np.unique(raw, return_inverse=True, return_counts=True)
        self.num_grams = len(counts)
        rarity = np.empty(len(counts), np.int64)
        rarity[np.argsort(counts, kind="stable")] = np.arange(len(counts))
        self.keys: Array = np.sort(self.owners * self.num_grams + rarity[numbers])
        """text * num_grams + gram: sorted over all, so any (text, gram) is found by one search."""
        self.numbers: Array = self.keys - self.owners * self.num_grams

    def __len__(self) -> int:
        return len(self.sizes)

    def of(self, index: int) -> Array:
        return self.numbers[self.bounds[index] : self.bounds[index + 1]]


def similar_pairs(texts: Sequence[str], threshold: float) -> Similarity:
    """All pairs of different texts whose 3-gram Jaccard is at least `threshold`; equal texts are not paired here."""
    assert 0 < threshold <= 1, "a similarity is between 0 and 1"
    grams = Grams(texts)
    is_first = np.zeros(len(texts), bool)
    is_first[list({text: index for index, text in reversed(list(enumerate(texts)))}.values())] = True
    candidates, num_crowded = _candidates(grams, is_first, threshold)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(candidates), _BATCH):
        batch = candidates[start : start + _BATCH]
        close = batch[_jaccard(grams, batch) >= threshold - 1e-9]
        pairs += [(int(left), int(right)) for left, right in close]
    return Similarity(threshold, pairs, num_crowded, grams)


def _gram_set(text: str) -> Array:
    """3-grams as 63-bit numbers, three code points of 21 bits each, so no two collide."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.int64)
    if len(points) < 3:
        points = np.concatenate([points, np.zeros(3 - len(points), np.int64)])
    grams: Array = np.sort((points[:-2] << 42) | (points[1:-1] << 21) | points[2:])
    grams = grams[np.concatenate([[True], grams[1:] != grams[:-1]])]
    if len(grams) <= _SKETCH:
        return grams
    mixed = grams.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    smallest: Array = grams[np.argsort(mixed ^ (mixed >> np.uint64(29)), kind="stable")[:_SKETCH]]
    return smallest


def _candidates(grams: Grams, is_asked: npt.NDArray[np.bool_], threshold: float) -> tuple[Array, int]:
    """Pairs (left < right) that share one of their rarest grams and are of like size, each once."""
    sizes, size = grams.sizes, len(grams)
    prefix = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
    rank = np.arange(len(grams.owners)) - grams.bounds[grams.owners]
    keep = (rank < prefix[grams.owners]) & is_asked[grams.owners]
    by_size = np.lexsort((np.arange(size), sizes))  # within each gram, texts of like size are neighbours
    place = np.empty(size, np.int64)
    place[by_size] = np.arange(size)
    keys = np.sort(grams.numbers[keep] * max(size, 1) + place[grams.owners[keep]])
    numbers, owners = keys // max(size, 1), by_size[keys % max(size, 1)]
    crowds = np.bincount(numbers, minlength=1)
    found = [np.zeros((0, 2), np.int64)]
    for distance in range(1, min(_CROWD, len(owners))):
        near, far = slice(None, -distance), slice(distance, None)
        together = numbers[near] == numbers[far]
        together &= (crowds[numbers[near]] <= _CROWD) | (distance <= _REACH)
        together &= sizes[owners[near]] >= threshold * sizes[owners[far]] - 1e-9
        found.append(np.stack([owners[near][together], owners[far][together]], axis=1))
    pairs = np.sort(np.concatenate(found), axis=1)
    merged = np.unique(pairs[:, 0] * size + pairs[:, 1])
    return np.stack([merged // max(size, 1), merged % max(size, 1)], axis=1), int((crowds > _CROWD).sum())


def _jaccard(grams: Grams, pairs: Array) -> npt.NDArray[np.float64]:
    """Jaccard similarity of each pair of sets: the smaller one's grams are looked up in the larger one."""
    sizes, left, right = grams.sizes, pairs[:, 0], pairs[:, 1]
    swap = sizes[left] > sizes[right]
    left, right = np.where(swap, right, left), np.where(swap, left, right)
    lengths = sizes[left]
    pair_of = np.repeat(np.arange(len(pairs)), lengths)
    offsets = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    wanted = right[pair_of] * grams.num_grams + grams.numbers[grams.bounds[left][pair_of] + offsets]
    at = np.minimum(np.searchsorted(grams.keys, wanted), len(grams.keys) - 1)
    shared = np.bincount(pair_of, weights=grams.keys[at] == wanted, minlength=len(pairs))
    ratios: npt.NDArray[np.float64] = shared / (sizes[left] + sizes[right] - shared)
    return ratios
