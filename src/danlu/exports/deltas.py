"""Weight by weight: merged - base must be s B A (or what DoRA makes of it), rounded once. Logits can hide a module
merged at 0.9; this cannot.

What stands in the merged files is compared with W + s B A made anew, in fp32, from the base's files and the adapter's.
Rounding to the files' dtype may move an element by half a unit in the last place and no more. Weights without a pair
must be the base's own. Tensors are read one at a time.

Shapes: N output width, D input width, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.adapters.peft_format import Pair
from danlu.exports.parity import Check, ulp
from danlu.model.build import family_of
from danlu.model.model import Model
from danlu.model.stored import Stored
from danlu.model.weights import split

NUM_FP32_STEPS = 8.0
"""Allowance, in fp32 units of the summands' size, for adding and multiplying in another order."""


@dataclass(frozen=True, slots=True)
class Delta:
    """One merged weight. `excess` is the largest error beyond rounding, in units of the last place; `kept_ratio` is how
    much of the update survived rounding, measured along the update: 1 all of it, 0 nothing (merged is the base)."""

    module: str
    excess: float
    num_wrong: int
    kept_ratio: float
    error_ratio: float
    """|merged - base - s B A| / |s B A|, rounding included."""


def compare_delta(module: str, base_ND: Tensor, merged_ND: Tensor, pair: Pair) -> Delta:
    """All in fp32 on the CPU; `merged_ND` in its file's dtype, which says what rounding is."""
    base, merged, dtype = base_ND.float(), merged_ND.float(), merged_ND.dtype
    update = pair.update_of(base)
    expected = base + update
    size = base.abs() + abs(pair.scaling) * (pair.B.float().abs() @ pair.A.float().abs())
    allowed = 0.5 * ulp(expected, dtype) + NUM_FP32_STEPS * torch.finfo(torch.float32).eps * size
    error = (merged - expected).abs()
    over = (error - allowed) / ulp(expected, dtype)
    norm = float(update.double().square().sum())
    kept = float(((merged - base).double() * update.double()).sum()) / norm if norm else 1.0
    apart = float(error.double().square().sum()) ** 0.5 / norm**0.5 if norm else 0.0
    bad = ~(error <= allowed)  # a NaN is never within what is allowed
    excess = float(over.nan_to_num(float("inf")).max())
    return Delta(module, max(0.0, excess) if bool(bad.any()) else 0.0, int(bad.sum()), kept, apart)


def check_deltas(
    model: Model,
    base_folder: Path,
    merged_folder: Path,
    pairs: Mapping[str, Pair],
    *,
    onto: Mapping[str, Tensor] | None = None,
) -> Check:
    """`model` gives the shape and names only. `onto` are the base's weights where the update does not go into those of
    its files, but into what their codes stand for. Fails naming the worst modules."""
    base = _Tensors(model, base_folder)
    deltas: list[Delta] = []
    foreign: list[str] = []
    unseen = set(base.places)
    written = _Tensors(model, merged_folder)
    for name, merged in written.read_all():
        if name not in base.places:
            foreign.append(name)
            continue
        unseen.discard(name)
        before = base.read(name) if onto is None else onto[name].detach().cpu()
        module = name.removesuffix(".weight")
        if module in pairs:
            deltas.append(compare_delta(module, before, merged, pairs[module]))
        elif before.shape != merged.shape or not torch.equal(before.to(merged.dtype), merged):
            foreign.append(name)
    missing = set(pairs) - {delta.module for delta in deltas}
    foreign += [*unseen, *missing, *(written.homeless - base.homeless)]
    wrong = sorted((delta for delta in deltas if delta.num_wrong), key=lambda delta: -delta.excess)
    kept = [delta.kept_ratio for delta in deltas]
    numbers: dict[str, Any] = {
        "num_modules": len(deltas), "num_wrong_modules": len(wrong), "num_foreign_tensors": len(foreign),
        "worst_excess_ulps": wrong[0].excess if wrong else 0.0,
        "least_kept_ratio": min(kept, default=1.0), "largest_kept_ratio": max(kept, default=1.0),
        "largest_error_ratio": max((delta.error_ratio for delta in deltas), default=0.0),
    }  # fmt: skip
    notes = [f"{delta.module}: x{delta.kept_ratio:.4f}" for delta in wrong[:5]] + sorted(foreign)[:5]
    limits = {"num_wrong_modules": 0, "num_foreign_tensors": 0}
    return Check("weights", "fail" if wrong or foreign else "pass", numbers, limits, "; ".join(notes))


def check_copied(model: Model, folder: Path) -> Check:
    """Full fine-tuning: what stands in the files is the living weight, rounded to the files' dtype, to the bit."""
    living = dict(model.named_parameters())
    differing = []
    for name, stored in _Tensors(model, folder).read_all():
        own = living.pop(name, None)
        if own is None or not torch.equal(own.detach().cpu().to(stored.dtype), stored):
            differing.append(name)
    differing += list(living)
    numbers, limits = {"num_foreign_tensors": len(differing)}, {"num_foreign_tensors": 0}
    return Check("weights", "fail" if differing else "pass", numbers, limits, "; ".join(differing[:5]))


class _Tensors:
    """A checkpoint folder's tensors under our names, read when asked for."""

    def __init__(self, model: Model, folder: Path) -> None:
        self._model, self._family, self._stored = model, family_of(model.config), Stored(folder)
        self.places: dict[str, str] = {}
        self.homeless: set[str] = set()
        """Tensors that the model has no place for: a tied head stored twice, angle tables of old files."""
        known = {name for name, _ in model.named_parameters()}
        for their_name in self._stored.names:
            shape = self._stored.shape(their_name)
            for name, _ in self._split(their_name, torch.empty(shape, device="meta")):
                if name in known:
                    self.places[name] = their_name
                else:
                    self.homeless.add(name)

    def read(self, name: str) -> Tensor:
        """In fp32 where the file holds codes."""
        their_name = self.places[name]
        with self._stored as stored:
            return dict(self._split(their_name, stored.read_plain(their_name)))[name]

    def read_all(self) -> Iterator[tuple[str, Tensor]]:
        for name in self.places:
            yield name, self.read(name)

    def _split(self, their_name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        return split(their_name, tensor, self._family, self._model.spec)
