"""A decoder's weights for answering on a card: projections that read the same input are one product, and no weight lies
in memory twice. Where q, k and v (gate and up) do not lie below one another already they are moved there once, and the
model's own parameters become views of it; what still trains, or is a view itself, stays where it is and is multiplied
by itself.

Shapes: T tokens, K inputs, N outputs of all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

from danlu.engines.lenses import PRODUCTS
from danlu.model.decoder import Block, RMSNorm
from danlu.ops.gated import Activation
from danlu.ops.turn import HeadNorms


class SideBySide:
    """x_TK times the weights of linear layers that read the same input: out_TN."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        assert all(linear.weight is not None for linear in linears), "a quantised weight is no matrix"
        whole = _below_one_another([linear.weight for linear in linears])
        biases = [None if linear.bias is None else linear.bias.detach() for linear in linears]
        self.weights: list[Tensor] = [linear.weight.detach() for linear in linears]
        self.biases: list[Tensor | None] = list(biases)
        if whole is not None:
            self.weights = [whole]
            self.biases = [_joined(biases, [linear.out_features for linear in linears], whole)]

    def __call__(self, x_TK: Tensor) -> Tensor:
        parts = [F.linear(x_TK, weight, bias) for weight, bias in zip(self.weights, self.biases, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _below_one_another(weights: Sequence[Tensor]) -> Tensor | None:
    """One matrix that the weights are rows of; None where they cannot be moved."""
    first = weights[0]
    if _are_adjacent(weights):
        num_outputs = sum(len(weight) for weight in weights)
        return first.detach().as_strided((num_outputs, first.shape[1]), first.stride(), first.storage_offset())
    if any(weight.requires_grad or weight.untyped_storage().nbytes() != weight.nbytes for weight in weights):
        return None
    with torch.inference_mode(False), torch.no_grad():
        whole = torch.cat([weight.detach() for weight in weights])
        for weight, own in zip(weights, torch.split(whole, [len(weight) for weight in weights]), strict=True):
            weight.data = own
    return whole


def _are_adjacent(weights: Sequence[Tensor]) -> bool:
    first, at = weights[0], weights[0].data_ptr()
    for weight in weights:
        is_next = weight.data_ptr() == at and weight.stride() == first.stride()
        if not is_next or weight.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return False
        at += len(weight) * weight.stride(0) * weight.element_size()
    return True


def _joined(biases: Sequence[Tensor | None], sizes: Sequence[int], like: Tensor) -> Tensor | None:
    if all(bias is None for bias in biases):
        return None
    return torch.cat([like.new_zeros(size) if bias is None else bias for bias, size in zip(biases, sizes, strict=True)])


@dataclass(slots=True)
class CardLayer:
    """One block. The two last norms are Gemma's, on the way out."""

    products: list[SideBySide]
    norm_in: RMSNorm
    norm_fed: RMSNorm
    norm_mixed: RMSNorm | None
    norm_out: RMSNorm | None
    heads: HeadNorms | None
    activation: Activation

    @classmethod
    def of(cls, block: nn.Module) -> CardLayer:
        assert isinstance(block, Block), "a decoder is made of blocks"
        linears = [[block.get_submodule(part) for part in parts] for parts in PRODUCTS]
        products = [SideBySide([layer for layer in some if isinstance(layer, nn.Linear)]) for some in linears]
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
