"""Weights packed for answering: products side by side, laid out for the CPU's kernels, and norms in fp32.

Projections that read the same input are one product (q, k, v; gate and up), a low-rank pair's A lies below its weight
in that product, and weights are laid out once as the CPU's matrix kernels want them (oneDNN does it at every call
otherwise, which for a small model costs more than the product). Query and key heads are laid out so that the two
numbers that turn together lie together: a rotation is one product of complex numbers, and as both are laid out alike,
no score changes.

A quantised base's weights are dequantised once: NF4 and int8 mean those numbers. fp8 layers round what they multiply
too, so a product of theirs quantises its rows first, as the layers themselves do, and multiplies values of codes.

Shapes: T tokens end to end, D inputs or a head's size, N outputs, R ranks side by side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

from danlu.adapters.lora import LoRALinear
from danlu.adapters.peft_format import FreeLinear
from danlu.engines.lenses import PRODUCTS, base_of
from danlu.model.decoder import Block, RMSNorm
from danlu.model.quantizers.fp8 import FP8Linear
from danlu.model.quantizers.quantizer import QuantizedLinear
from danlu.model.spec import Spec
from danlu.ops.fp8 import quantise_rows
from danlu.ops.gated import Activation
from danlu.ops.rope import RopeSpec


class Product:
    """x [T, D] times the weights of layers that read the same input, side by side: [T, N]. `orders` is a new order of
    the outputs of each layer, or None."""

    def __init__(self, layers: Sequence[nn.Module], orders: Sequence[Tensor | None], *, with_adapter: bool) -> None:
        linears = [base_of(layer) for layer in layers]
        self.num_outputs = sum(linear.out_features for linear in linears)
        weights = [_ordered(_weight_of(linear), order) for linear, order in zip(linears, orders, strict=True)]
        dtype, device = weights[0].dtype, weights[0].device
        biases = [linear.bias for linear in linears]
        pairs = [layer if with_adapter and isinstance(layer, LoRALinear) else None for layer in layers]
        self.B_RN: Tensor | None = None
        if any(pairs):
            weights += [pair.lora_A.to(dtype) for pair in pairs if pair is not None]
            self.B_RN = _blocks(linears, pairs, orders).to(device, dtype)
        weight_ND = torch.cat(weights) if len(weights) > 1 else weights[0].detach()
        self.bias_N = None
        if any(bias is not None for bias in biases):
            filled = [
                torch.zeros(linear.out_features, dtype=dtype, device=device) if bias is None else _ordered(bias, order)
                for linear, bias, order in zip(linears, biases, orders, strict=True)
            ]
            self.bias_N = torch.cat(
                [*filled, torch.zeros(len(weight_ND) - self.num_outputs, dtype=dtype, device=device)]
            )
        self.weight_ND, self.is_packed = lay_out(weight_ND)

    def __call__(self, x_TD: Tensor) -> Tensor:
        out_TN = times(x_TD, self.weight_ND, self.bias_N, is_packed=self.is_packed)
        if self.B_RN is None:
            return out_TN
        own_TN = out_TN[:, : self.num_outputs]
        return own_TN.addmm_(out_TN[:, self.num_outputs :], self.B_RN)


class FP8Product(Product):
    """Of layers in fp8. Codes are exact in any dtype here and a weight's scales are powers of two; a row's are not, and
    are multiplied with at the end. Pairs would read rounded rows here: there are none."""

    def __call__(self, x_TD: Tensor) -> Tensor:
        assert self.B_RN is None, "pairs multiply rows as they are"
        codes_TD, scale_T = quantise_rows(x_TD)
        out_TN = times(codes_TD.to(x_TD.dtype), self.weight_ND, None, is_packed=self.is_packed)
        out_TN.mul_(scale_T[:, None])
        return out_TN if self.bias_N is None else out_TN.add_(self.bias_N)


def _weight_of(layer: FreeLinear) -> Tensor:
    return layer.weight(layer.dtype) if isinstance(layer, QuantizedLinear) else layer.weight


def _ordered(tensor: Tensor, order: Tensor | None) -> Tensor:
    return tensor if order is None else tensor[order]


def _blocks(
    linears: Sequence[FreeLinear], pairs: Sequence[LoRALinear | None], orders: Sequence[Tensor | None]
) -> Tensor:
    """B_RN: each pair's scaled B where its ranks meet its layer's outputs, zeros elsewhere."""
    num_ranks = sum(pair.lora_A.shape[0] for pair in pairs if pair is not None)
    first = next(pair for pair in pairs if pair is not None)
    B_RN = torch.zeros(num_ranks, sum(linear.out_features for linear in linears), device=first.lora_B.device)
    rank = output = 0
    for linear, pair, order in zip(linears, pairs, orders, strict=True):
        if pair is not None:
            size = pair.lora_A.shape[0]
            scaled_RN = pair.scaling * _ordered(pair.lora_B, order).T
            B_RN[rank : rank + size, output : output + linear.out_features] = scaled_RN
            rank += size
        output += linear.out_features
    return B_RN


def lay_out(weight_ND: Tensor) -> tuple[Tensor, bool]:
    """The weight as oneDNN reads it fastest, and whether it is: builds of torch without it, and other
    devices, keep it as it is."""
    if not torch._C._has_mkldnn or weight_ND.device.type != "cpu":
        return weight_ND, False
    with torch.inference_mode(False), torch.no_grad():
        normal_ND = weight_ND.clone() if weight_ND.is_inference() else weight_ND
        return torch.ops.mkldnn._reorder_linear_weight(normal_ND), True


def times(x_TD: Tensor, weight_ND: Tensor, bias_N: Tensor | None, *, is_packed: bool) -> Tensor:
    if not is_packed:
        return F.linear(x_TD, weight_ND, bias_N)
    out: Tensor = _linear()(x_TD, weight_ND, bias_N, "none", [], "")
    return out


@functools.cache
def _linear() -> Callable[..., Tensor]:
    """oneDNN's product; asked for by its full name, torch need not look for it at every call."""
    found: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
    return found


class Norm:
    """RMSNorm of fp32 rows, its weight in fp32; rounded once, at the end."""

    def __init__(self, norm: nn.Module, order: Tensor | None = None) -> None:
        assert isinstance(norm, RMSNorm), "a decoder's norms are RMSNorms"
        self.weight, self.eps = _ordered(norm.weight, order).float() + norm.offset, norm.eps

    @functools.cached_property
    def numbers(self) -> tuple[npt.NDArray[np.float32], np.float32]:
        """Weight and epsilon as numpy has them."""
        return self.weight.numpy(), np.float32(self.eps)

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


@dataclass(slots=True)
class Layer:
    """One block's packed weights and norms. The two last norms are Gemma's, on the way out."""

    products: list[Product]
    norm_in: Norm
    norm_fed: Norm
    norm_q: Norm | None
    norm_k: Norm | None
    norm_mixed: Norm | None
    norm_out: Norm | None
    activation: Activation


def make_layer(block: nn.Module, order_D: Tensor, spec: Spec, *, with_adapter: bool) -> Layer:
    assert isinstance(block, Block), "a decoder is made of blocks"
    orders = {"q_proj": order_of(order_D, spec.num_heads), "k_proj": order_of(order_D, spec.num_kv_heads)}
    products = []
    for parts in PRODUCTS:
        layers = [block.get_submodule(part) for part in parts]
        kind = FP8Product if isinstance(base_of(layers[0]), FP8Linear) else Product
        own = [orders.get(part.rpartition(".")[2]) for part in parts]
        products.append(kind(layers, own, with_adapter=with_adapter))
    has_qk, is_sandwich = spec.has_qk_norm, spec.has_sandwich_norms
    after = block.post_attention_layernorm
    return Layer(
        products,
        Norm(block.input_layernorm),
        Norm(block.pre_feedforward_layernorm if is_sandwich else after),
        Norm(block.self_attn.q_norm, order_D) if has_qk else None,
        Norm(block.self_attn.k_norm, order_D) if has_qk else None,
        Norm(after) if is_sandwich else None,
        Norm(block.post_feedforward_layernorm) if is_sandwich else None,
        block.mlp.activation,
    )


def head_order(rope: RopeSpec, head_size: int) -> Tensor:
    """A head's numbers with those that turn together side by side: 0, R/2, 1, R/2 + 1, …, and the rest behind."""
    half = rope.rotary_size // 2
    turning = torch.stack((torch.arange(half), torch.arange(half, 2 * half)), dim=1).flatten()
    return torch.cat((turning, torch.arange(2 * half, head_size)))


def order_of(order_D: Tensor, num_heads: int) -> Tensor:
    return (torch.arange(num_heads)[:, None] * len(order_D) + order_D).flatten()
