"""How much of each module's update, and of its whole weight, arrived, read from a program's logits alone.

Logits hide a module at 0.9: one weight in thousands moves each of them a little. But we know in which direction. With
one module's update made smaller, our own model says by how much each logit would move; along that direction even a
small move adds up over all positions and tokens, and noise, which knows nothing of it, does not. What comes out is a
figure per module: 1 arrived, 0.9 a tenth is missing, 0 it was lost. The same figure from an honest path (our model with
its inputs rounded as the program rounds them) is its noise. Whole weights are read in the same way: what shrinking a
layer's output does, bias left out, is what a weight at 0.9 would do, be it nearly all normed away again.

Shapes: P positions of a text, V vocabulary, K likeliest tokens, F figures = all P and K of all texts, M modules.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from danlu.adapters.lora import HEADS, AttachedLoRA, LoRALinear
from danlu.adapters.peft_format import linears_of
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
    """Of updates. `engine` is what was trained, its pairs not merged; `records` give the texts."""
    assert isinstance(engine.adapter, AttachedLoRA), "an update that can be scaled"
    layers = engine.adapter.layers
    groups = _groups(engine, list(layers), records[-MAX_TEXTS:])
    return _measure(engine, records, {
        label: functools.partial(scaled, [layers[name] for name in names], 1 - STEP) for label, names in groups.items()
    })  # fmt: skip


def measure_weights(engine: NativeEngine, records: Sequence[Record]) -> Effects:
    """Of the blocks' whole weights, updates included."""
    layers: dict[str, nn.Module] = {
        name: layer for name, layer in linears_of(engine.model).items() if name.rpartition(".")[2] not in HEADS
    }
    groups = _groups(engine, list(layers), records[-MAX_TEXTS:])
    return _measure(engine, records, {
        label: functools.partial(shrunk, [layers[name] for name in names], 1 - STEP) for label, names in groups.items()
    })  # fmt: skip


def _measure(
    engine: NativeEngine, records: Sequence[Record], shrinking: Mapping[str, Callable[[], AbstractContextManager[None]]]
) -> Effects:
    """What each block of `shrinking` does to the logits, by the step that it takes."""
    records = records[-MAX_TEXTS:]
    before = hear(records, engine, is_together=True)
    tokens = tuple(logits_PV.topk(min(NUM_TOKENS, logits_PV.shape[-1]), dim=-1).indices for logits_PV in before)
    whole_F = _figures(before, tokens)
    directions = []
    for shrink in shrinking.values():
        with shrink():
            directions.append((whole_F - _figures(hear(records, engine, is_together=True), tokens)) / STEP)
    return Effects(tuple(shrinking), tokens, torch.stack(directions))


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


@contextmanager
def shrunk(layers: Sequence[nn.Module], factor: float) -> Iterator[None]:
    """Inside the block what these layers' weights give is `factor` times what it is; biases are left as they are."""

    def after(layer: nn.Module, given: Any, out: Tensor) -> Tensor:
        bias = layer.bias
        return factor * out if bias is None else factor * out + (1 - factor) * bias.to(out.dtype)  # type: ignore[operator]

    hooks = [layer.register_forward_hook(after) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_modules(
    name: str, effects: Effects, records: Sequence[Record], heard: Sequence[Tensor], honest: Sequence[Sequence[Tensor]]
) -> Check:
    """`heard` is the program on trial, `honest` what the same path says when nothing is wrong."""
    return _judge(name, "arrived", effects, records, heard, honest)


def check_weights(
    name: str, effects: Effects, records: Sequence[Record], heard: Sequence[Tensor], honest: Sequence[Sequence[Tensor]]
) -> Check:
    """The same of whole weights."""
    return _judge(name, "size", effects, records, heard, honest)


def _judge(
    name: str, word: str, effects: Effects, records: Sequence[Record], heard: Sequence[Tensor],
    honest: Sequence[Sequence[Tensor]],
) -> Check:  # fmt: skip
    missing_M = effects.read(records, heard)
    as_told = [[ours[-len(theirs) :] for ours, theirs in zip(each, heard, strict=True)] for each in honest]
    noise_M = torch.stack([effects.noise(records, each) for each in as_told]).amax(0)
    limits_M = (NOISE_FACTOR * noise_M).clamp_min(LEAST_LIMIT)
    # What is not a number has not arrived. Of what is normed away so far that all of it could be missing, nothing is
    # said.
    wrong_M = ~(missing_M.abs() <= limits_M) & (limits_M <= 1.0)
    seen_M = missing_M[limits_M <= SHOWN] if bool((limits_M <= SHOWN).any()) else missing_M
    order = (missing_M.abs() / limits_M).nan_to_num(torch.inf).argsort(descending=True).tolist()
    worst = [place for place in order if bool(wrong_M[place])][:5]
    note = "; ".join(f"{effects.names[place]}: x{1 - float(missing_M[place]):.3f}" for place in worst)
    numbers: dict[str, Any] = {
        "num_modules": len(effects.names), "num_wrong_modules": int(wrong_M.sum()),
        f"least_{word}": 1 - float(seen_M.max()), f"most_{word}": 1 - float(seen_M.min()),
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


def _groups(engine: NativeEngine, names: Sequence[str], records: Sequence[Record]) -> dict[str, list[str]]:
    """Each module alone, or as many neighbours together as the cost demands."""
    num_tokens = sum(len(record.text_ids) for record in records)
    flops = 2.0 * num_params(engine.model) * num_tokens
    budget = MAX_FLOPS.get(engine.model.device.type, MAX_FLOPS["cuda"])
    size = -(-len(names) // max(1, min(len(names), int(budget / flops))))
    parts = [list(names[start : start + size]) for start in range(0, len(names), size)]
    return {part[0] if len(part) == 1 else f"{part[0]} … {part[-1]}": part for part in parts}
