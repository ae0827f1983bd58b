"""All quantised layers of a model at once: put in place, counted, and kept dequantised when there is room.

The linear layers of the blocks are quantised; embedding, head and norms stay in 16 bits. What a layer of each kind is
stands on the shelf `quantizers`.
"""

from __future__ import annotations

import torch
from torch import nn

from danlu.core.errors import ModelError
from danlu.model.quantizers import QUANTIZERS
from danlu.model.quantizers.quantizer import Quantize, QuantizedLinear

HEADS = ("lm_head", "embed_out")


def make_room(model: nn.Module, kind: Quantize, dtype: torch.dtype) -> None:
    """Empty quantised layers in place of the linear ones of a model that has no weights yet."""
    quantizer = QUANTIZERS.load(kind, where="model.quantize")
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] not in HEADS:
            put(model, name, quantizer.in_place_of(layer, dtype))


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """The layer under that name from now on."""
    parent, _, end = name.rpartition(".")
    setattr(model.get_submodule(parent), end, layer)


def quantized_layers(model: nn.Module) -> list[QuantizedLinear]:
    return [layer for layer in model.modules() if isinstance(layer, QuantizedLinear)]


def quantization_of(model: nn.Module) -> Quantize:
    """What the base lies in."""
    layers = quantized_layers(model)
    return layers[0].kind if layers else "none"


def num_params(model: nn.Module) -> int:
    """Elements of all weights, quantised ones included."""
    return sum(p.numel() for p in model.parameters()) + sum(
        layer.in_features * layer.out_features for layer in quantized_layers(model)
    )


def cache_bytes(model: nn.Module) -> int:
    """What `keep_dequantized` would take."""
    return sum(
        layer.in_features * layer.out_features * layer.dtype.itemsize
        for layer in quantized_layers(model)
        if layer.can_keep_dequantized
    )


def keep_dequantized(model: nn.Module) -> None:
    """Dequantise every layer once and hold the result: identical numbers, `cache_bytes` more memory, no work per use.
    FP8 layers multiply their codes and have nothing to gain: they are left as they are."""
    for layer in quantized_layers(model):
        if layer.can_keep_dequantized:
            layer.keep_dequantized()


def keep_dequantized_if_room(model: nn.Module, free_bytes: int) -> bool:
    """`keep_dequantized` where it takes at most `free_bytes`; says whether it did."""
    has_room = 0 < cache_bytes(model) <= free_bytes
    if has_room:
        keep_dequantized(model)
    return has_room


def drop_dequantized(model: nn.Module) -> None:
    for layer in quantized_layers(model):
        layer.drop_dequantized()


def refuse_quantized(model: nn.Module, act: str) -> None:
    """ModelError where an act needs the weights themselves."""
    kind = quantization_of(model)
    if kind != "none":
        raise ModelError("model.needs_weights", where="model.quantize", given=kind, act=act)
