# ruff: noqa: N815 - shape suffixes
"""A prefix: keys and values that stand before every document, in every layer, as if tokens had been read there.

Queries of a flat row see the prefix and their own document, no other. So each document gets its prefix's keys and
values put before its own, with as many queries of zeros, whose outputs nobody reads: then it is a row of longer
documents, for whatever attention kernel there is. Positions of tokens begin behind the prefix; its keys are as they
are, not turned.

Shapes: T tokens, P tokens of the prefix, N documents, W = T + N · P, L layers, H query heads, K key/value heads, D head
size.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from danlu.ops.attention import Bounds


@dataclass(frozen=True, slots=True)
class Seats:
    """Where prefixes and tokens lie in the wider row."""

    bounds: Bounds
    prefix_NP: Tensor
    own_T: Tensor

    @classmethod
    def of(cls, bounds: Bounds, num_tokens: int, device: torch.device) -> Seats:
        wider = Bounds.of([length + num_tokens for length in bounds.lengths])
        starts = wider.cu_seqlens[:-1]
        prefix = [torch.arange(start, start + num_tokens) for start in starts]
        own = [torch.arange(a + num_tokens, b) for a, b in itertools.pairwise(wider.cu_seqlens)]
        return cls(wider, torch.cat(prefix).to(device), torch.cat(own).to(device))


class Prefix(nn.Module):
    """`prompt_embeddings` [P, L · 2 · K · D]: of each layer keys, then values, as PEFT lays them out."""

    def __init__(self, prompt_embeddings: Tensor, num_kv_heads: int, head_size: int) -> None:
        super().__init__()
        self.prompt_embeddings = nn.Parameter(prompt_embeddings)
        self.num_kv_heads, self.head_size = num_kv_heads, head_size
        self.is_disabled = False

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_embeddings)

    def before(self, layer: int, k_TKD: Tensor, v_TKD: Tensor, seats: Seats) -> tuple[Tensor, Tensor]:
        """(k_WKD, v_WKD): this layer's prefix before each document's own."""
        sides_PSKD = self.prompt_embeddings.view(self.num_tokens, -1, self.num_kv_heads, self.head_size)
        keys_PKD, values_PKD = sides_PSKD[:, 2 * layer], sides_PSKD[:, 2 * layer + 1]
        return self._seated(keys_PKD, k_TKD, seats), self._seated(values_PKD, v_TKD, seats)

    @staticmethod
    def _seated(prefix_PKD: Tensor, own_TKD: Tensor, seats: Seats) -> Tensor:
        repeated = prefix_PKD.to(own_TKD.dtype).repeat(seats.bounds.num_documents, 1, 1)
        return spread(own_TKD, seats).index_copy(0, seats.prefix_NP, repeated)


def spread(own_THD: Tensor, seats: Seats) -> Tensor:
    """[W, H, D]: tokens in their places, zeros where prefixes stand."""
    return own_THD.new_zeros(seats.bounds.num_tokens, *own_THD.shape[1:]).index_copy(0, seats.own_T, own_THD)
