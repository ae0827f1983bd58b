"""What `training.compile` compiles, region by region, at few fixed shapes.

A foreign model (`families/hf.py`): each of its decoder layers. Its padded batches are padded on to bucketed shapes, and
what was added is cut off again, so that one compilation serves many batches.
danlu's decoder as written out: feed-forward and norms. The trainer pads such batches to `micro_tokens`.
The quick form of the decoder (`training.blocks`) is fused by hand: nothing of it is compiled.
Attention in both is one kernel already; those that compile first (FlexAttention) may now compete for it.
On a card that Triton does not support nothing is compiled; `ops.capability` has the remark about it.

Shapes: N rows, L tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import nn

from danlu.model.decoder import MLP, Decoder, RMSNorm
from danlu.model.model import Model
from danlu.ops.attention import may_compile
from danlu.ops.attention.bounds import round_up_count
from danlu.ops.kernels import has_kernels

GRAIN = 64  # rows are so many tokens long, times a bucketed count
MOST_SHAPES = 64  # compiled per layer before torch gives up; buckets stay below


def compile_blocks(model: Model, backend: str | Callable[..., Any] = "inductor") -> int:
    """Compile in place, lazily: the first forward pays. Returns how many modules it concerns: none on a card
    too old for it, which a person is told beforehand (`device.no_kernels`)."""
    if model.device.type == "cuda" and not has_kernels(model.device):
        return 0
    if isinstance(model, Decoder):
        may_compile(True)
        modules: list[nn.Module] = [module for module in model.modules() if isinstance(module, MLP | RMSNorm)]
    else:
        layers = decoder_layers(model)
        modules = list(layers)
        trunk = next(child for child in model.children() if any(module is layers for module in child.modules()))
        FewShapes().watch(trunk)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SHAPES)
    for module in modules:
        module.compile(dynamic=False, backend=backend)
    return len(modules)


def decoder_layers(model: Model) -> nn.ModuleList:
    """The list of modules that holds most of a foreign model's weights."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    assert lists, "a causal LM is a stack of layers"
    return max(lists, key=lambda layers: sum(parameter.numel() for parameter in layers.parameters()))


class FewShapes:
    """Pads what goes into a module to a bucketed shape and cuts what comes out back. Added columns are masked; added
    rows see themselves (a row that sees nothing would be all NaN) and are cut off, so nobody learns from them."""

    def __init__(self) -> None:
        self._asked: tuple[int, int] | None = None

    def watch(self, trunk: nn.Module) -> None:
        trunk.register_forward_pre_hook(self._pad, with_kwargs=True)
        trunk.register_forward_hook(self._cut)

    def _pad(self, trunk: nn.Module, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        self._asked = None
        ids_NL, mask_NL = given.get("input_ids"), given.get("attention_mask")
        if ids_NL is None or mask_NL is None or given.get("use_cache"):
            return None  # answering: its shapes are its cache's
        N, L = ids_NL.shape
        num_rows, length = round_up_count(N), GRAIN * round_up_count(-(-L // GRAIN))
        self._asked = N, L
        ids = F.pad(ids_NL, (0, length - L, 0, num_rows - N))
        mask = F.pad(F.pad(mask_NL, (0, length - L)), (0, 0, 0, num_rows - N), value=1)
        return args, {**given, "input_ids": ids, "attention_mask": mask}

    def _cut(self, trunk: nn.Module, args: Any, out: Any) -> Any:
        if self._asked is not None:
            N, L = self._asked
            out.last_hidden_state = out.last_hidden_state[:N, :L]
        return out
