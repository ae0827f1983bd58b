"""Which rows are worth a person's time: uncertain, unlike what is already labelled, and typical of many others.

Greedy k-centre (Sener & Savarese 2018) in which a row's distance to all that is labelled or chosen counts as much as
the model's doubt about it and its density in the pool (Settles & Craven 2008). Rows come in batches, because the doubt
must be measured anew once a batch is labelled; within a batch every choice makes its neighbours less wanted.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from danlu.data.quality.vectors import Floats, Vectors

BATCH = 50
Doubts = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen row (its place in the pool) and why: each part in [0, 1], `score` their product."""

    index: int
    batch: int
    score: float
    doubt: float
    distance: float
    density: float


def entropy(probabilities_NK: npt.NDArray[np.floating]) -> Doubts:
    """Doubt of N rows from probabilities of K classes, 0 sure, 1 no idea."""
    clipped = np.clip(np.asarray(probabilities_NK, dtype=np.float64), 1e-12, 1.0)
    clipped /= clipped.sum(axis=1, keepdims=True)
    doubts: Doubts = -(clipped * np.log(clipped)).sum(axis=1) / np.log(max(2, clipped.shape[1]))
    return np.clip(doubts, 0, 1)


def disagreement(answers: Sequence[Sequence[str]]) -> Doubts:
    """Doubt of each row from several answers drawn for it: 1 minus their mean pairwise likeness (Jaccard of character
    2-grams). Equal answers: 0. One answer or none tells nothing: 0."""
    return np.array([_spread(drawn) for drawn in answers], dtype=np.float64)


def density(vectors: Vectors) -> Doubts:
    """How typical a row is of the pool: its mean cosine with all rows, scaled so that the most typical has 1."""
    if not len(vectors):
        return np.zeros(0)
    mean_D = np.zeros(vectors.num_dims, np.float64)
    np.add.at(mean_D, vectors.places, vectors.values)
    alike = vectors.dot((mean_D / len(vectors)).astype(np.float32)).astype(np.float64)
    most = float(alike.max())
    return alike / most if most > 0 else np.ones(len(vectors))


def choose(
    vectors: Vectors,
    doubts: Doubts,
    budget: int,
    *,
    labelled: Floats | None = None,
    batch: int = BATCH,
    density_weight: float = 0.5,
) -> list[Choice]:
    """`budget` rows of the pool, best first. `labelled`: for each row its cosine with the nearest labelled row (see
    `nearness`); None where nothing is labelled. The same input gives the same choice; ties go to the earlier row."""
    assert len(vectors) == len(doubts), "one doubt per row"
    dense = density(vectors)
    nearest = np.zeros(len(vectors)) if labelled is None else np.asarray(labelled, dtype=np.float64).copy()
    wanted = np.clip(doubts, 1e-6, 1) * np.power(np.clip(dense, 1e-6, 1), density_weight)
    taken = np.zeros(len(vectors), bool)
    chosen: list[Choice] = []
    for number in range(min(budget, len(vectors))):
        distances = np.clip(1 - nearest, 0, 1)
        scores = np.where(taken, -1.0, wanted * distances)
        index = int(scores.argmax())
        taken[index] = True
        parts = (scores[index], doubts[index], distances[index], dense[index])
        score, doubt, distance, typical = (round(float(part), 4) for part in parts)
        chosen.append(Choice(index, number // batch + 1, max(score, 0.0), doubt, distance, typical))
        nearest = np.maximum(nearest, vectors.dot(vectors.dense(index)))
    return chosen


def nearness(pool: Vectors, labelled: Sequence[int]) -> Floats:
    """Cosine of every row with the nearest of some rows of the same vectors."""
    nearest = np.zeros(len(pool), np.float32)
    for index in labelled:
        nearest = np.maximum(nearest, pool.dot(pool.dense(index)))
    return nearest


def _spread(drawn: Sequence[str]) -> float:
    grams = [frozenset(itertools.pairwise(text)) or frozenset({(text, "")}) for text in map(_plain, drawn)]
    pairs = [(left, right) for place, left in enumerate(grams) for right in grams[:place]]
    if not pairs:
        return 0.0
    return 1 - sum(len(left & right) / len(left | right) for left, right in pairs) / len(pairs)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
