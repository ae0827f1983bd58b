"""Learning-rate schedules: a linear rise, then linear, cosine or constant. Pure arithmetic on step numbers."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["linear", "cosine", "constant"]


def learning_rate(index: int, num_steps: int, *, peak: float, schedule: Schedule, warmup_ratio: float) -> float:
    """The rate of the update with this 0-based index. The first one already moves the weights (peak / warm-up steps);
    linear and cosine would reach zero at index `num_steps`, one past the last update."""
    num_warmup = math.ceil(warmup_ratio * num_steps)
    if index < num_warmup:
        return peak * (index + 1) / num_warmup
    progress = (index - num_warmup) / max(1, num_steps - num_warmup)
    match schedule:
        case "linear":
            return peak * (1.0 - progress)
        case "cosine":
            return peak * 0.5 * (1.0 + math.cos(math.pi * progress))
        case "constant":
            return peak
