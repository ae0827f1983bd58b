"""FlexAttention (Dong et al., 2024) with a document mask: a compiled kernel that passes over blocks without a visible
key. Knows windows and softcaps. Compiling takes tens of seconds, so it stands for choice in long trainings only, and
wants rows of one length (`training` pads them), or it compiles again.

Shapes: T tokens of all documents, B blocks of 128 of them, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from danlu.ops.attention.bounds import Bounds
from danlu.ops.attention.kernel import Ask, Heads

BLOCK = 128

Visible = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Flex:
    """`is_allowed` is said by whoever knows how long the training is (`choice.may_compile`)."""

    name = "FlexAttention"
    is_deterministic = False

    def __init__(self) -> None:
        self.is_allowed = False

    def fits(self, heads: Heads, ask: Ask) -> bool:
        size = heads.head_size
        is_size = 16 <= size <= 256 and size & (size - 1) == 0
        is_shape = heads.is_16_bit and is_size and ask.bounds.num_tokens % BLOCK == 0 and ask.bounds.num_tokens > 0
        is_known = not ask.bounds.is_standing  # the block mask follows the host's lengths
        return self.is_allowed and is_known and heads.capability >= (8, 0) and is_shape

    def run(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, ask: Ask) -> Tensor:
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q_THD, k_TKD, v_TKD))
        mask = block_mask(ask.bounds, ask.window if ask.needs_window else None, q_THD.device)
        out = _compiled()(
            q, k, v, score_mod=_cap(ask.softcap), block_mask=mask, scale=ask.scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        flat: Tensor = out.squeeze(0).transpose(0, 1)
        return flat


@functools.cache
def _compiled():  # type: ignore[no-untyped-def]
    return torch.compile(flex_attention, dynamic=False)


@functools.cache
def _cap(softcap: float | None):  # type: ignore[no-untyped-def]
    if softcap is None:
        return None

    def bend(score, batch, head, q, k):  # type: ignore[no-untyped-def]
        return torch.tanh(score / softcap) * softcap

    return bend


def block_mask(bounds: Bounds, window: int | None, device: torch.device) -> BlockMask:
    """Which blocks of keys a block of queries sees, in full or in part; made once per batch."""
    return bounds.derived(("block mask", window), device, lambda: make_block_mask(bounds, window, device))


def make_block_mask(bounds: Bounds, window: int | None, device: torch.device) -> BlockMask:
    """From each block's first and last token, without the [T, T] mask."""
    lengths_N = torch.tensor(bounds.lengths)
    document_T = torch.arange(len(lengths_N)).repeat_interleave(lengths_N)
    first_B, last_B = document_T[::BLOCK], document_T[BLOCK - 1 :: BLOCK]
    block_B = torch.arange(len(first_B))
    apart_BB = block_B[:, None] - block_B  # of query block and key block
    is_seen_BB = (apart_BB >= 0) & (last_B >= first_B[:, None])
    is_full_BB = (apart_BB > 0) & (first_B == last_B[:, None])
    if window is not None:
        is_seen_BB &= (apart_BB - 1) * BLOCK + 1 < window  # the nearest pair of tokens
        is_full_BB &= (apart_BB + 1) * BLOCK - 1 < window  # the farthest
    partly, fully = _listed(is_seen_BB & ~is_full_BB, device), _listed(is_seen_BB & is_full_BB, device)
    mask: BlockMask = BlockMask.from_kv_blocks(
        *partly, *fully, BLOCK_SIZE=BLOCK, mask_mod=_visible(document_T.to(device), window)
    )
    return mask


def _listed(chosen_BB: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """(how many, which first) of each row, [1, 1, B] and [1, 1, B, B] int32, as FlexAttention wants it."""
    order_BB = chosen_BB.int().argsort(dim=-1, descending=True, stable=True)
    count_B = chosen_BB.sum(-1)
    return count_B.int()[None, None].to(device), order_BB.int()[None, None].to(device)


def _visible(document_T: Tensor, window: int | None) -> Visible:
    def causal(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (document_T[q] == document_T[k])

    if window is None:
        return causal

    def near(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return causal(batch, head, q, k) & (q - k < window)

    return near
