"""How much of each module's update arrived, read from a program's logits alone.

Logits hide a module at 0.9: one weight in thousands moves each of them a little. But we know in which direction. With
one module's update made smaller, our own model says by how much each logit would move; along that direction even a
small move adds up over all positions and tokens, and noise, which knows nothing of it, does not. What comes out is a
figure per module: 1 arrived, 0.9 a tenth is missing, 0 it was lost. The same figure from an honest path (our model with
its inputs rounded as the program rounds them) is its noise.

Shapes: P positions of a text, V vocabulary, K likeliest tokens, F figures = all P and K of all texts, M modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from danlu.adapters.lora import AttachedLoRA, LoRALinear
from danlu.engines.native import NativeEngine
from danlu.exports.parity import Check, Record, hear
from danlu.model.quantized import num_params

STEP = 0.1
"""A module's update is made this much smaller to see what that does."""
MAX_TEXTS = 12
"""The last ones, which are those of the domain."""
NUM_TOKENS = 64
"""The likeliest tokens of each position."""
LEAST_LIMIT = 0.02
"""What of an update may be missing for no reason."""
NOISE_FACTOR = 5.0
"""Standard deviations: of a million modules that are right, none is called wrong."""
SHOWN = 0.08
"""A module is shown when its limit is below this: at 0.9 it would fail."""
MAX_FLOPS = {"cpu": 4e12, "cuda": 5e15}
"""What the directions may cost; beyond it neighbouring modules are taken together."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What shrinking each module's update does to the logits: `directions` [M, F] per unit of the update. `tokens` are
    the ids_PK looked at in each text, `names` the modules (or groups of them)."""

    names: tuple[str, ...]
    tokens: tuple[Tensor, ...]
    directions: Tensor

    def read(self, records: Sequence[Record], heard: Sequence[Tensor]) -> Tensor:
        """missing_M: the part of each module's update that `heard` lacks beside `records`; negative: too much."""
        parts_XM, size_M = self._project(records, heard)
        return -parts_XM.sum(0) / size_M

    def noise(self, records: Sequence[Record], honest: Sequence[Tensor]) -> Tensor:
        """noise_M: how far `read` strays where nothing is missing, as a standard deviation. One figure of one honest
        path may be small by luck; its parts, text by text, are not all at once."""
        parts_XM, size_M = self._project(records, honest)
        return parts_XM.square().sum(0).sqrt() / size_M

    def _project(self, records: Sequence[Record], heard: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Along each direction, what every text moved, [X, M], and the squared length of the direction, [M]."""
        parts, size_M, start = [], torch.zeros(len(self.names), dtype=torch.float64), 0
        records, heard = records[-len(self.tokens) :], heard[-len(self.tokens) :]
        num_told = 0
        for record_, logits_PV, ids_PK in zip(records, heard, self.tokens, strict=True):
            moved_PK = torch.full(ids_PK.shape, torch.nan, dtype=torch.float64)
            ours_PK, theirs_PK = _log_probs(record_.logits, ids_PK), _log_probs(logits_PV, ids_PK)
            moved_PK[-len(theirs_PK) :] = theirs_PK - ours_PK[-len(theirs_PK) :]
            told_F = ~moved_PK.flatten().isnan()
            directions_MF = self.directions[:, start : start + ids_PK.numel()][:, told_F]
            parts.append(directions_MF @ moved_PK.flatten()[told_F])
            size_M += directions_MF.square().sum(-1)
            start, num_told = start + ids_PK.numel(), num_told + int(told_F.sum())
        if num_told == 0:  # what tells nothing has lost everything
            return torch.full((1, len(self.names)), torch.inf, dtype=torch.float64), torch.ones_like(size_M)
        return torch.stack(parts), size_M.clamp_min(1e-30)


def measure_effects(engine: NativeEngine, records: Sequence[Record]) -> Effects:
    """`engine` is what was trained, its pairs not merged; `records` give the texts."""
    assert isinstance(engine.adapter, AttachedLoRA), "an update that can be scaled"
    records = records[-MAX_TEXTS:]
    groups = _groups(engine, engine.adapter, records)
    before = hear(records, engine, is_together=True)
    tokens = tuple(logits_PV.topk(min(NUM_TOKENS, logits_PV.shape[-1]), dim=-1).indices for logits_PV in before)
    whole_F = _figures(before, tokens)
    directions = []
    for group in groups.values():
        with scaled(group, 1 - STEP):
            directions.append((whole_F - _figures(hear(records, engine, is_together=True), tokens)) / STEP)
    return Effects(tuple(groups), tokens, torch.stack(directions))


@contextmanager
def scaled(layers: Sequence[LoRALinear], factor: float) -> Iterator[None]:
    """Inside the block these layers' updates are `factor` times what they are."""
    before = [layer.scaling for layer in layers]
    for layer in layers:
        layer.scaling *= factor
    try:
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling = scaling


def check_modules(
    name: str, effects: Effects, records: Sequence[Record], heard: Sequence[Tensor], honest: Sequence[Sequence[Tensor]]
) -> Check:
    """`heard` is the program on trial, `honest` what the same path says when nothing is wrong."""
    missing_M = effects.read(records, heard)
    as_told = [[ours[-len(theirs) :] for ours, theirs in zip(each, heard, strict=True)] for each in honest]
    noise_M = torch.stack([effects.noise(records, each) for each in as_told]).amax(0)
    limits_M = (NOISE_FACTOR * noise_M).clamp_min(LEAST_LIMIT)
    wrong_M = ~(missing_M.abs() <= limits_M)  # what is not a number has not arrived
    order = (missing_M.abs() / limits_M).nan_to_num(torch.inf).argsort(descending=True).tolist()
    worst = [place for place in order if bool(wrong_M[place])][:5]
    note = "; ".join(f"{effects.names[place]}: x{1 - float(missing_M[place]):.3f}" for place in worst)
    numbers: dict[str, Any] = {
        "num_modules": len(effects.names), "num_wrong_modules": int(wrong_M.sum()),
        "least_arrived": 1 - float(missing_M.max()), "most_arrived": 1 - float(missing_M.min()),
        "num_unshown": int((limits_M > SHOWN).sum()), "largest_noise": float(noise_M.max()),
    }  # fmt: skip
    limits = {"num_wrong_modules": 0, "largest_missing": float(limits_M.max()), "least_limit": LEAST_LIMIT}
    return Check(name, "fail" if bool(wrong_M.any()) else "pass", numbers, limits, note)


def _figures(heard: Sequence[Tensor], tokens: Sequence[Tensor]) -> Tensor:
    return torch.cat([_log_probs(logits, ids).flatten() for logits, ids in zip(heard, tokens, strict=True)])


def _log_probs(logits_PV: Tensor, ids_PK: Tensor) -> Tensor:
    """Of the tokens looked at, fp64. Partial logits are log-probabilities already, and NaN where nothing was told."""
    wide = logits_PV.double()
    if not bool(wide.isnan().any()):
        wide = wide.log_softmax(-1)
    return wide.gather(-1, ids_PK[-len(wide) :])


def _groups(engine: NativeEngine, adapter: AttachedLoRA, records: Sequence[Record]) -> dict[str, list[LoRALinear]]:
    """Each module alone, or as many neighbours together as the cost demands."""
    num_tokens = sum(len(record.text_ids) for record in records)
    flops = 2.0 * num_params(engine.model) * num_tokens
    budget = MAX_FLOPS.get(engine.model.device.type, MAX_FLOPS["cuda"])
    names = list(adapter.layers)
    size = -(-len(names) // max(1, min(len(names), int(budget / flops))))
    found = {}
    for start in range(0, len(names), size):
        part = names[start : start + size]
        label = part[0] if len(part) == 1 else f"{part[0]} … {part[-1]}"
        found[label] = [adapter.layers[name] for name in part]
    return found
