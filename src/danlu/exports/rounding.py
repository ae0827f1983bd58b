"""What a file's numbers, or a program's, are after rounding: our own arithmetic to hold them to.

`rounded` says what a weight should be in a file of a kind; the expected model is made of such weights, so that only
arithmetic lies between it and a program that reads the file. `rounding_inputs` lets our model round what enters its
products as such a program does: how much that moves the logits is the noise to expect of it. q8_0 is GGUF's: blocks of
32 along a row, one half-precision scale each, codes -127 to 127 (the scale rounded after the codes were chosen with it
in full).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from danlu.exports.parity import dithered, ulp
from danlu.exports.readers.reader import Rounding

BLOCK = 32
HALVES: dict[Rounding, torch.dtype] = {"f16": torch.float16, "bf16": torch.bfloat16}


def rounding_of(dtype: torch.dtype) -> Rounding:
    """The name of a torch dtype."""
    names: dict[torch.dtype, Rounding] = {half: name for name, half in HALVES.items()}
    return names.get(dtype, "f32")


def rounded(values: Tensor, kind: Rounding) -> Tensor:
    """In fp32, each number the nearest that `kind` can hold. A row that q8_0's blocks do not divide lies in f16."""
    values = values.float().contiguous()
    if kind == "q8_0":
        return _q8_0(values) if values.shape[-1] % BLOCK == 0 else values.half().float()
    return values.to(HALVES[kind]).float() if kind in HALVES else values


def _q8_0(values: Tensor) -> Tensor:
    blocks = values.view(*values.shape[:-1], -1, BLOCK)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    inverse = torch.where(scale > 0, 1 / scale, torch.zeros_like(scale))
    codes = blocks * inverse
    codes = codes.abs().add(0.5).floor().mul(codes.sign())  # halves go away from zero, as C's roundf has it
    return (codes * scale.half().float()).view(values.shape)


def spacing(values: Tensor, kind: Rounding) -> Tensor:
    """How far apart the numbers of `kind` lie around each value."""
    if kind == "q8_0" and values.shape[-1] % BLOCK == 0:
        blocks = values.view(*values.shape[:-1], -1, BLOCK)
        return (blocks.abs().amax(-1, keepdim=True) / 127).expand(blocks.shape).reshape(values.shape)
    return ulp(values, HALVES.get("f16" if kind == "q8_0" else kind, torch.float32))


def round_weights(model: nn.Module, matrices: Rounding, vectors: Rounding, pairs: Rounding) -> None:
    """Every weight of a model in place: matrices (embedding and head too), vectors (norms, biases), low-rank pairs."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            kind = pairs if name.rpartition(".")[2].startswith("lora_") else matrices if weight.dim() > 1 else vectors
            weight.copy_(rounded(weight, kind))


@contextlib.contextmanager
def rounding_inputs(model: nn.Module, kind: Rounding, *, halves_gelu: bool = False) -> Iterator[None]:
    """Inside the block what enters a linear layer, or the head, is rounded first. `halves_gelu`: the activation of
    the feed-forward is looked up in a table of half-precision numbers, in and out."""
    hooks = []
    for name, layer in model.named_modules():
        end = name.rpartition(".")[2]
        if kind != "f32" and isinstance(layer, nn.Linear):
            hooks.append(layer.register_forward_pre_hook(_entering(kind)))
        if kind != "f32" and name == "model.norm":  # a tied head is no layer: what it multiplies comes from here
            hooks.append(layer.register_forward_hook(_leaving(kind)))
        if halves_gelu and end == "gate_proj":
            hooks.append(layer.register_forward_hook(_leaving("f16")))
        if halves_gelu and end == "down_proj":
            hooks.append(layer.register_forward_pre_hook(_entering("f16")))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def computing_in(model: nn.Module, kind: Rounding) -> Iterator[None]:
    """Inside the block the whole model computes in half precision: its weights, and what enters and leaves each layer
    and norm, are rounded."""
    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            hooks.append(layer.register_forward_pre_hook(_entering(kind)))
        if isinstance(layer, nn.Linear) or name.endswith("norm"):
            hooks.append(layer.register_forward_hook(_leaving(kind)))
    try:
        with dithered(list(model.parameters()), HALVES[kind], 0):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _entering(kind: Rounding) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """A hook that rounds what a layer is given."""
    return lambda _, given: (rounded(given[0], kind).to(given[0].dtype), *given[1:])


def _leaving(kind: Rounding) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that rounds what a layer gives."""
    return lambda _, given, out: rounded(out, kind).to(out.dtype)
