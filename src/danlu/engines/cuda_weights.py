"""A decoder's weights for answering on a card: projections that read the same input are one product, and no weight lies
in memory twice. Where q, k and v (gate and up) do not lie below one another already they are moved there once, and the
model's own parameters become views of it; what still trains, or is a view itself, stays where it is and is multiplied
by itself. A quantised base's weights are codes (`cuda_codes.py`).

Shapes: T tokens, K inputs, N outputs of all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

from danlu.adapters.peft_format import FreeLinear
from danlu.engines.cuda_codes import Codes, FP8Codes, Scratch
from danlu.engines.lenses import PRODUCTS, base_of
from danlu.model.decoder import Block, Decoder, RMSNorm
from danlu.model.quantizers.fp8 import FP8Linear
from danlu.model.quantizers.quantizer import QuantizedLinear
from danlu.ops.adjoining import adjoined, moved_together
from danlu.ops.gated import Activation
from danlu.ops.turn import HeadNorms

Product = Callable[[Tensor], Tensor]
"""x_TK to out_TN."""


class SideBySide:
    """x_TK times the weights of linear layers that read the same input: out_TN."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        whole = _below_one_another([linear.weight for linear in linears])
        self.weights: list[Tensor] = [linear.weight.detach() for linear in linears]
        self.biases: list[Tensor | None] = [_bias_of(linear) for linear in linears]
        if whole is not None:
            self.weights, self.biases = [whole], [_joined(linears)]

    def __call__(self, x_TK: Tensor) -> Tensor:
        parts = [F.linear(x_TK, weight, bias) for weight, bias in zip(self.weights, self.biases, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class Apart:
    """Layers that read the same input and lie in different things."""

    def __init__(self, products: Sequence[Product]) -> None:
        self.products = products

    def __call__(self, x_TK: Tensor) -> Tensor:
        return torch.cat([product(x_TK) for product in self.products], dim=-1)


def product_of(layers: Sequence[FreeLinear], scratch: Scratch, *, may_move: bool) -> Product:
    """What multiplies by these layers' weights."""
    if len({base.kind if isinstance(base, QuantizedLinear) else "none" for base in layers}) > 1:
        return Apart([product_of([base], scratch, may_move=may_move) for base in layers])
    if linears := [base for base in layers if isinstance(base, nn.Linear)]:
        return SideBySide(linears)
    if eights := [base for base in layers if isinstance(base, FP8Linear)]:
        return FP8Codes(eights, _joined(eights), may_move=may_move)
    quantized = [base for base in layers if isinstance(base, QuantizedLinear)]
    return Codes(quantized, _joined(quantized), scratch, may_move=may_move)


def bases_of(block: Block) -> list[list[FreeLinear]]:
    """By product."""
    return [[base_of(block.get_submodule(part)) for part in parts] for parts in PRODUCTS]


def scratch_for(model: Decoder) -> Scratch:
    """Room for the largest product whose weights must be dequantised."""
    sizes = [0]
    for block in model.model.layers:
        assert isinstance(block, Block), "a decoder is made of blocks"
        for bases in bases_of(block):
            coded = [base for base in bases if isinstance(base, QuantizedLinear) and base.can_keep_dequantized]
            sizes.append(sum(base.in_features * base.out_features for base in coded if not base.has_cache))
    return Scratch(max(sizes), model.dtype, model.device)


def _below_one_another(weights: Sequence[Tensor]) -> Tensor | None:
    """One matrix that the weights are rows of; None where they cannot be moved."""
    if (whole := adjoined(weights)) is not None:
        return whole
    if any(weight.requires_grad or weight.untyped_storage().nbytes() != weight.nbytes for weight in weights):
        return None
    for weight, own in zip(weights, moved := moved_together(weights), strict=True):
        weight.data = own
    return adjoined(moved)


def _bias_of(layer: FreeLinear) -> Tensor | None:
    return None if layer.bias is None else layer.bias.detach()


def _joined(layers: Sequence[FreeLinear]) -> Tensor | None:
    there = [layer.bias for layer in layers if layer.bias is not None]
    if not there:
        return None
    return torch.cat(
        [there[0].new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers]
    ).detach()


@dataclass(slots=True)
class CardLayer:
    """One block. The two last norms are Gemma's, on the way out."""

    products: list[Product]
    norm_in: RMSNorm
    norm_fed: RMSNorm
    norm_mixed: RMSNorm | None
    norm_out: RMSNorm | None
    heads: HeadNorms | None
    activation: Activation

    @classmethod
    def of(cls, block: Block, scratch: Scratch, *, may_move: bool) -> CardLayer:
        products = [product_of(bases, scratch, may_move=may_move) for bases in bases_of(block)]
        at, after, is_sandwich = block.self_attn, block.post_attention_layernorm, block.has_sandwich_norms
        heads = None
        if at.spec.has_qk_norm:
            norm_q, norm_k = at.q_norm, at.k_norm
            heads = HeadNorms(norm_q.weight.detach(), norm_k.weight.detach(), norm_q.eps, norm_q.offset)
        return cls(
            products, block.input_layernorm, block.pre_feedforward_layernorm if is_sandwich else after,
            after if is_sandwich else None, block.post_feedforward_layernorm if is_sandwich else None, heads,
            block.mlp.activation,
        )  # fmt: skip
