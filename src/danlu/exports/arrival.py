"""How much of each module's update arrived in codes, read from the codes themselves.

Logits of a coarse format hide one module at 0.9, and so does each number of its weight. Along the update all its
numbers add up, and rounding errors, which know nothing of it, do not: 1 all of it arrived, 0.9 a tenth is missing. What
lies along the base is taken out first: a search that clips makes the whole weight a little smaller, update and all, and
that is not a part that is missing. How far rounding alone strays is known from the distances between the numbers that
the format can hold.

Shapes: N output width, D input width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from danlu.core.errors import DanluError
from danlu.core.files import read_json
from danlu.exports.parity import Check
from danlu.exports.transfer import LEAST_LIMIT, NOISE_FACTOR, SHOWN
from danlu.model.build import family_of
from danlu.model.model import Model


@dataclass(slots=True)
class Arrivals:
    """Collects module by module; `strays` is how far errors may be of rounding to nearest."""

    strays: float = 1.0
    arrived: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)

    def add(self, module: str, base_ND: Tensor, merged_ND: Tensor, found_ND: Tensor, steps_ND: Tensor) -> None:
        """`steps_ND` says how far apart the format's numbers lie around each weight. A module without an update is left
        out."""
        base, found = base_ND.double(), found_ND.double()
        update = merged_ND.double() - base
        length = base.square().sum().clamp_min(1e-30)
        apart = update - (update * base).sum() / length * base  # what of it does not lie along the base
        size = float(apart.square().sum())
        if size == 0.0:
            return
        of_update = float((found * apart).sum()) / size
        of_base = float(((found - of_update * update) * base).sum() / length)
        # an error lies anywhere between half a step down and half a step up: its variance is a twelfth of the square
        noise = self.strays * float((steps_ND.double() * apart).square().sum() / 12) ** 0.5 / size
        self.arrived[module] = of_update / of_base if of_base > 0 else float("inf")
        self.limits[module] = max(LEAST_LIMIT, NOISE_FACTOR * noise)

    def check(self, name: str) -> Check:
        """Modules too weak for a tenth to show are counted; of one that may be missing whole nothing is said."""
        missing = {module: abs(1 - arrived) for module, arrived in self.arrived.items()}
        wrong = [
            module for module, part in missing.items() if not part <= self.limits[module] and self.limits[module] <= 1.0
        ]
        wrong.sort(key=lambda module: -missing[module] / self.limits[module])
        shown = [module for module, limit in self.limits.items() if limit <= SHOWN]
        seen = [self.arrived[module] for module in (shown or self.arrived)] or [1.0]
        numbers: dict[str, Any] = {
            "num_modules": len(self.arrived), "num_wrong_modules": len(wrong), "least_arrived": min(seen),
            "most_arrived": max(seen), "num_unshown": len(self.arrived) - len(shown),
            "largest_noise": max(self.limits.values(), default=0.0) / NOISE_FACTOR,
        }  # fmt: skip
        note = "; ".join(f"{module}: x{self.arrived[module]:.3f}" for module in wrong[:5])
        limits = {"num_wrong_modules": 0, "least_limit": LEAST_LIMIT}
        return Check(name, "fail" if wrong else "pass", numbers, limits, note)


def check_shape(name: str, model: Model, folder: Path) -> Check:
    """config.json describes the model that was trained: angles, epsilon, caps. Where a format rounds inputs, its noise
    hides a small one of these from logits."""
    config = read_json(folder / "config.json")
    try:
        found, ours = asdict(family_of(config).spec(config)), asdict(model.spec)
        differing = sorted(key for key in ours if found[key] != ours[key])
    except DanluError as error:
        return Check(name, "fail", note=error.text)
    numbers, limits = {"num_wrong_settings": len(differing)}, {"num_wrong_settings": 0}
    return Check(name, "fail" if differing else "pass", numbers, limits, "; ".join(differing))
