"""How much may have been lost? Bounds of a paired difference for showing that a model is *not* worse.

A test that finds no difference shows nothing: few questions find none either. Here the burden is turned round: a loss
beyond a margin must be ruled out. The bounds are Tango's score bounds for paired proportions (Tango 1998). Unlike a
bootstrap they stay honest when hardly any answer changed: with none of n changed the bound is -z²/(n + z²).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal

Kept = Literal["kept", "lost", "unproven"]

LEVEL = 0.95


def loss_bounds(num_gained: float, num_lost: float, num_items: float, *, level: float = LEVEL) -> tuple[float, float]:
    """(low, high) of tuned minus base, each a one-sided bound at `level`. Counts may be effective ones, of clusters."""
    assert num_items > 0 and num_gained + num_lost <= num_items * (1 + 1e-9), "changes among the items"
    z = NormalDist().inv_cdf(level)
    return _bound(num_gained, num_lost, num_items, -z), _bound(num_gained, num_lost, num_items, z)


def kept(bounds: tuple[float, float] | list[float], margin: float) -> Kept:
    """kept: a loss of `margin` or more is ruled out. lost: a loss is shown. unproven: too few questions to say."""
    low, high = bounds
    if low > -margin:
        return "kept"
    return "lost" if high < 0 else "unproven"


def items_to_prove(num_gained: int, num_lost: int, num_items: int, margin: float, *, level: float = LEVEL) -> int:
    """About how many items would rule out the margin at these rates of change if in truth nothing is lost; power 80 %.

    n = (z_level + z_power)² · churn / margin²; where nothing changed, as many as make -z²/(n + z²) pass.
    """
    z, z_power = NormalDist().inv_cdf(level), NormalDist().inv_cdf(0.8)
    churn = (num_gained + num_lost) / num_items
    least = z * z * (1 - margin) / margin
    return math.ceil(max(least, (z + z_power) ** 2 * churn / margin**2))


def _bound(b: float, c: float, n: float, z: float) -> float:
    """The difference at which the score statistic is -z (bisection; the statistic falls as the difference grows)."""
    low, high = (-1.0, (b - c) / n) if z < 0 else ((b - c) / n, 1.0)
    for _ in range(60):
        middle = (low + high) / 2
        if _score(b, c, n, middle) > -z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _score(b: float, c: float, n: float, delta: float) -> float:
    """Tango's statistic for a true difference `delta`, with the nuisance probability at its restricted maximum."""
    first = 2 * n
    second = -b - c + (2 * n - b + c) * delta
    third = -c * delta * (1 - delta)
    q = (math.sqrt(max(0.0, second * second - 4 * first * third)) - second) / (2 * first)
    variance = n * (2 * q + delta * (1 - delta))
    distance = b - c - n * delta
    if variance <= 0:
        return math.inf if distance > 0 else -math.inf if distance < 0 else 0.0
    return distance / math.sqrt(variance)
