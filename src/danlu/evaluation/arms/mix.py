"""Which arm, or which mix of arms, to use: the cheapest that is not shown to be worse than the best.

A mix sends a question to a retrieval arm where the word search is sure of its passage, and to another where it is not.
Its threshold is learnt on other questions than it is judged on (five folds, whole groups), so that a mix does not look
good by having been fitted.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.core.files import sha256_json
from danlu.evaluation.arms.asking import USES_PASSAGES, Name
from danlu.evaluation.stats import compare, proportion

NUM_FOLDS = 5
MARGIN = 0.02
"""Accuracy that a cheaper way may seem to lose."""
FEWEST_ITEMS = 30
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """One arm on all items: right or wrong, and what an answer costs (any one unit, the same for all arms)."""

    right: tuple[bool, ...]
    cost: float


@dataclass(frozen=True, slots=True)
class Way:
    """An arm, or a mix of two. `arms[n]` answers item n; `right[n]` is what came out of it."""

    name: str
    sure: Name
    unsure: Name
    threshold: float | None
    arms: tuple[Name, ...]
    right: tuple[bool, ...]
    cost: float

    def shares(self) -> dict[str, float]:
        return {name: self.arms.count(name) / len(self.arms) for name in sorted(set(self.arms))}

    def to_json(self, clusters: Sequence[Hashable]) -> dict[str, Any]:
        estimate = proportion(self.right, clusters)
        return {
            "name": self.name, "sure": self.sure, "unsure": self.unsure, "threshold": self.threshold,
            "accuracy": estimate.value, "interval": [estimate.low, estimate.high], "cost": self.cost,
            "shares": self.shares(),
        }  # fmt: skip


def recommend(
    measured: Mapping[Name, Measured], certainty: Sequence[float], clusters: Sequence[Hashable]
) -> dict[str, Any]:
    """The chosen way, the best one, and every way that was weighed, cheapest first."""
    ways = [*singles(measured), *mixes(measured, certainty, clusters)]
    best = max(ways, key=lambda way: (sum(way.right), -way.cost, way.threshold is None))
    fitting = [way for way in ways if way is best or _is_no_worse(way, best, clusters)]
    chosen = min(fitting, key=lambda way: (way.cost, way.threshold is not None, -sum(way.right)))
    difference = compare(best.right, chosen.right, clusters).to_json() if chosen is not best else None
    return {
        "chosen": chosen.to_json(clusters), "best": best.to_json(clusters), "difference": difference,
        "ways": [way.to_json(clusters) for way in sorted(ways, key=lambda way: way.cost)],
        "is_small": len(clusters) < FEWEST_ITEMS,
    }  # fmt: skip


def _is_no_worse(way: Way, best: Way, clusters: Sequence[Hashable]) -> bool:
    if np.mean(way.right) < np.mean(best.right) - MARGIN:
        return False
    return compare(best.right, way.right, clusters).direction != "worse"


def singles(measured: Mapping[Name, Measured]) -> list[Way]:
    return [
        Way(name, name, name, None, (name,) * len(arm.right), arm.right, arm.cost) for name, arm in measured.items()
    ]


def mixes(measured: Mapping[Name, Measured], certainty: Sequence[float], clusters: Sequence[Hashable]) -> list[Way]:
    """Every pair of a retrieval arm and another one, with a threshold learnt on the other folds."""
    sureness = np.asarray(certainty, dtype=np.float64)
    folds = np.asarray([int(sha256_json([str(cluster), "fold"])[:8], 16) % NUM_FOLDS for cluster in clusters])
    ways = []
    for sure in (name for name in measured if USES_PASSAGES[name]):
        for unsure in (name for name in measured if name != sure):
            first, second = measured[sure], measured[unsure]
            hits = np.asarray(first.right, dtype=np.float64), np.asarray(second.right, dtype=np.float64)
            is_sure = np.zeros(len(sureness), dtype=bool)
            for fold in range(NUM_FOLDS):
                others = folds != fold
                threshold = fitted(sureness[others], hits[0][others], hits[1][others])
                is_sure[~others] = sureness[~others] >= threshold
            if is_sure.all() or not is_sure.any():
                continue
            arms = tuple(sure if flag else unsure for flag in is_sure)
            right = tuple(bool(first.right[n] if flag else second.right[n]) for n, flag in enumerate(is_sure))
            cost = float(np.where(is_sure, first.cost, second.cost).mean())
            ways.append(Way(f"{sure} + {unsure}", sure, unsure, fitted(sureness, *hits), arms, right, cost))
    return ways


def fitted(sureness: Floats, sure_hits: Floats, unsure_hits: Floats) -> float:
    """The threshold at which most are right: from it on the sure arm answers."""
    if not len(sureness):
        return 0.0
    order = np.argsort(sureness, kind="stable")
    levels, gains = sureness[order], (sure_hits - unsure_hits)[order]
    total = np.concatenate((np.cumsum(gains[::-1])[::-1], [0.0]))  # gain if the sure arm answers from place n on
    edges = np.concatenate(([True], levels[1:] > levels[:-1], [True]))  # a threshold cannot part equal ones
    total[~edges] = -np.inf
    place = int(np.flatnonzero(total == total.max())[0])
    if place == 0:
        return 0.0
    return float(np.inf) if place == len(levels) else float((levels[place - 1] + levels[place]) / 2)
