"""What a set of questions can find out: the smallest difference it shows, or how many it takes.

Sources: Connor 1987 (paired proportions); the normal approximation for means.
"""

from __future__ import annotations

import math
from statistics import NormalDist

LEVEL, POWER = 0.95, 0.8


def detectable_difference(
    num_items: float, *, churn_ratio: float = 0.1, level: float = LEVEL, power: float = POWER
) -> float:
    """Smallest true paired difference d found with so much power; `churn_ratio` is the share of items that change both
    ways and cancel out, so that churn + d of all items change.

    Solves n = (z_level sqrt(psi) + z_power sqrt(psi - d^2))^2 / d^2, psi = churn + d; 1.0: none is found.
    """
    if num_items <= 0:
        return 1.0

    def is_found(difference: float) -> bool:
        return num_items >= items_needed(difference, churn_ratio=churn_ratio, level=level, power=power)

    low, high = 0.0, 1.0
    for _ in range(50 if is_found(1.0) else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if is_found(middle) else (middle, high)
    return high


def items_needed(difference: float, *, churn_ratio: float = 0.1, level: float = LEVEL, power: float = POWER) -> float:
    """How many independent items find a true paired difference of right answers; infinite for none."""
    if difference <= 0:
        return math.inf
    z_level, z_power = NormalDist().inv_cdf(0.5 + level / 2), NormalDist().inv_cdf(power)
    changing = min(1.0, churn_ratio + difference)
    root = z_level * math.sqrt(changing) + z_power * math.sqrt(max(0.0, changing - difference**2))
    return (root / difference) ** 2


def detectable_mean(num_items: float, deviation: float, *, level: float = LEVEL, power: float = POWER) -> float:
    """The same for scores: `deviation` is that of the items' differences. At most 1.0, the scores' whole range."""
    if num_items <= 0:
        return 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2) + NormalDist().inv_cdf(power)
    return min(1.0, z * deviation / math.sqrt(num_items)) if deviation > 0 else 1 / num_items
