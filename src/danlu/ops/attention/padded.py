"""Documents of like length side by side in padded rows: the fast way on a CPU, where no variable-length kernel exists,
and the way of dtypes and cards that no flash kernel takes.

Shapes: T tokens of all documents, N documents, L longest of a group, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

from danlu.ops.attention.bounds import Bounds
from danlu.ops.attention.reference import visible, written_out

LONGEST_IN_ROWS = 512  # up to here all scores of a document may lie in memory at once
SMALL = 64  # documents up to this length share a group; finer grouping costs more launches than it saves


def padded_attention(
    q_THD: Tensor,
    k_TKD: Tensor,
    v_TKD: Tensor,
    bounds: Bounds,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Documents right-padded to the longest of their group. Padding stands after every real key, so causality alone
    hides it and no mask is needed: a dense block mask over the flat row costs four times as much on CPU."""

    def inside(q: Tensor, k: Tensor, v: Tensor, group: Group) -> Tensor:
        return _side_by_side(q, k, v, group, scale, window, softcap)

    return over_groups(q_THD, k_TKD, v_TKD, bounds, inside)


Inside = Callable[[Tensor, Tensor, Tensor, "Group"], Tensor]
"""Queries, keys and values of one group in padded rows, [N * L, heads, D], to what they give."""


def over_groups(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, bounds: Bounds, inside: Inside) -> Tensor:
    """Each group of documents into padded rows, through `inside`, and back to the flat row."""
    groups = groups_of(bounds)
    if len(groups) == 1 and groups[0].is_dense:
        return inside(q_THD, k_TKD, v_TKD, groups[0])
    outs, order = [], []
    for group in groups:
        slots, tokens = group.on(q_THD.device)
        size = group.num_documents * group.length
        q, k, v = (_pad(x, tokens, slots, size) for x in (q_THD, k_TKD, v_TKD))
        outs.append(_unpad(inside(q, k, v, group), slots))
        order.append(tokens)
    if not outs:
        return q_THD.clone()  # no token at all
    return _reorder(torch.cat(outs), torch.cat(order))


# ---- pieces


@dataclass(frozen=True)
class Group:
    """Documents of like length. slots: their tokens' places in the padded [N * L] row; tokens: in the flat row."""

    num_documents: int
    length: int
    slots: Tensor
    tokens: Tensor
    is_dense: bool  # nothing to pad and nothing to reorder

    @functools.cached_property
    def _on_device(self) -> dict[torch.device, tuple[Tensor, Tensor]]:
        return {}

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._on_device:
            self._on_device[device] = self.slots.to(device), self.tokens.to(device)
        return self._on_device[device]


def groups_of(bounds: Bounds) -> list[Group]:
    """Made once per batch; layers that follow find them."""
    assert not bounds.is_standing, "padded rows follow the host's lengths: no graph replays them for other documents"
    return bounds.derived(("padded",), torch.device("cpu"), lambda: _group(bounds))


def _group(bounds: Bounds) -> list[Group]:
    """Longest first; a group holds lengths down to half its longest, so padding never doubles the work by much."""
    lengths = bounds.lengths
    order = sorted((n for n in range(len(lengths)) if lengths[n]), key=lambda n: -lengths[n])
    members: list[list[int]] = []
    for n in order:
        longest = lengths[members[-1][0]] if members else 0
        if members and (2 * lengths[n] >= longest or longest <= SMALL):
            members[-1].append(n)
        else:
            members.append([n])
    return [_make_group(bounds, sorted(group)) for group in members]


def _make_group(bounds: Bounds, documents: list[int]) -> Group:
    longest = max(bounds.lengths[n] for n in documents)
    slots = [torch.arange(bounds.lengths[n]) + row * longest for row, n in enumerate(documents)]
    tokens = [torch.arange(bounds.cu_seqlens[n], bounds.cu_seqlens[n + 1]) for n in documents]
    is_dense = len(documents) * longest == bounds.num_tokens
    return Group(len(documents), longest, torch.cat(slots), torch.cat(tokens), is_dense)


def _side_by_side(
    q: Tensor, k: Tensor, v: Tensor, group: Group, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    """[N * L, heads, D] in and out."""
    q_NHLD, k_NKLD, v_NKLD = (
        x.view(group.num_documents, group.length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v)
    )
    num_shared = q_NHLD.shape[1] // k_NKLD.shape[1]
    if _rows_pay(q, softcap, group.length):
        out_NHLD = _in_rows(q_NHLD, k_NKLD, v_NKLD, scale, window)
    elif softcap is not None:
        k_NHLD, v_NHLD = (x.repeat_interleave(num_shared, dim=1) for x in (k_NKLD, v_NKLD))
        out_NHLD = written_out(q_NHLD, k_NHLD, v_NHLD, scale, window, softcap)
    else:
        needs_window = window is not None and window < group.length
        mask_LL = visible(group.length, window, q.device) if needs_window else None
        if num_shared > 1 and _repeats(q):
            k_NKLD, v_NKLD = (x.repeat_interleave(num_shared, dim=1) for x in (k_NKLD, v_NKLD))
            num_shared = 1
        out_NHLD = F.scaled_dot_product_attention(
            q_NHLD, k_NKLD, v_NKLD, attn_mask=mask_LL, is_causal=mask_LL is None, scale=scale, enable_gqa=num_shared > 1
        )
    return out_NHLD.transpose(1, 2).reshape(q.shape)


def _repeats(q: Tensor) -> bool:
    """Where SDPA would write all scores out rather than share key heads: its memory-efficient kernel, the only one for
    fp32 and for cards before Ampere, knows no shared heads."""
    if not q.is_cuda:
        return False
    is_16_bit = q.dtype in (torch.bfloat16, torch.float16)
    return not is_16_bit or torch.cuda.get_device_capability(q.device) < (8, 0)


def _rows_pay(q: Tensor, softcap: float | None, length: int) -> bool:
    """torch's SDPA on a CPU is slow backward in bf16: 50 ms where matrix products take 8 (48 documents of 56 tokens,
    one thread). In fp32, and forward only, it is as fast as they are or faster."""
    is_slow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad
    return is_slow and softcap is None and length <= LONGEST_IN_ROWS


def _in_rows(q_NHLD: Tensor, k_NKLD: Tensor, v_NKLD: Tensor, scale: float, window: int | None) -> Tensor:
    """Query heads that share a key head become more rows of one product, so no key is copied. Scores and shares are
    rounded to the inputs' dtype, the softmax between them is fp32 inside."""
    N, H, L, D = q_NHLD.shape
    K = k_NKLD.shape[1]
    rows = (q_NHLD * scale).reshape(N * K, H // K * L, D)
    keys, values = k_NKLD.reshape(N * K, L, D), v_NKLD.reshape(N * K, L, D)
    scores = torch.baddbmm(_hiding(L, H // K, window, q_NHLD.dtype), rows, keys.transpose(1, 2))
    return torch.bmm(scores.softmax(-1), values).view(N, H, L, D)


@functools.lru_cache(maxsize=16)
def _hiding(length: int, num_shared: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """[1, num_shared * L, L] to add to scores: -inf where query i must not see key j. On the CPU."""
    visible_LL = visible(length, window, torch.device("cpu"))
    return torch.zeros(length, length, dtype=dtype).masked_fill(~visible_LL, float("-inf")).repeat(1, num_shared, 1)


def _pad(x: Tensor, tokens: Tensor, slots: Tensor, size: int) -> Tensor:
    out: Tensor = _Pad.apply(x, tokens, slots, size)  # type: ignore[no-untyped-call]
    return out


def _unpad(x: Tensor, slots: Tensor) -> Tensor:
    out: Tensor = _Unpad.apply(x, slots)  # type: ignore[no-untyped-call]
    return out


def _reorder(x: Tensor, order: Tensor) -> Tensor:
    out: Tensor = _Reorder.apply(x, order)  # type: ignore[no-untyped-call]
    return out


class _Pad(torch.autograd.Function):
    """Tokens to their slots in a zero row; backward picks them up again (torch's own backward would add, not copy)."""

    @staticmethod
    def forward(ctx, x, tokens, slots, size):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(tokens, slots)
        ctx.shape = x.shape
        out = x.new_zeros(size, *x.shape[1:])
        return out.index_copy_(0, slots, x.index_select(0, tokens))

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        tokens, slots = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_copy_(0, tokens, grad.index_select(0, slots)), None, None, None


class _Unpad(torch.autograd.Function):
    """Slots back to a row without gaps."""

    @staticmethod
    def forward(ctx, x, slots):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(slots)
        ctx.shape = x.shape
        return x.index_select(0, slots)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (slots,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_copy_(0, slots, grad), None


class _Reorder(torch.autograd.Function):
    """Row i goes to place order[i]; order is a permutation."""

    @staticmethod
    def forward(ctx, x, order):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(order)
        return torch.empty_like(x).index_copy_(0, order, x)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (order,) = ctx.saved_tensors
        return grad.index_select(0, order), None
