"""Causal attention over documents that lie end to end in one flat row, each seeing only itself.

Three paths, one meaning: `reference_attention` (a loop a reader can check), `padded_attention` (documents of like
length side by side; the fast way on CPU, where no variable-length kernel exists) and
`varlen_attention` (the flash kernel of torch.nn.attention.varlen on CUDA). `attention` chooses.

Shapes: T tokens of all documents, N documents, L longest of a group, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

LONGEST_IN_ROWS = 512  # up to here all scores of a document may lie in memory at once
SMALL = 64  # documents up to this length share a group; finer grouping costs more launches than it saves


@dataclass(frozen=True)
class Bounds:
    """Where documents begin and end in the flat layout: document n is [cu_seqlens[n], cu_seqlens[n + 1])."""

    cu_seqlens: tuple[int, ...]

    def __post_init__(self) -> None:
        cu = self.cu_seqlens
        assert len(cu) >= 1 and cu[0] == 0, "bounds begin at 0"
        assert all(a <= b for a, b in itertools.pairwise(cu)), "bounds rise"

    @classmethod
    def of(cls, lengths: list[int] | tuple[int, ...]) -> Bounds:
        """Bounds of documents with these lengths."""
        return cls((0, *itertools.accumulate(lengths)))

    @functools.cached_property
    def lengths(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in itertools.pairwise(self.cu_seqlens))

    @property
    def num_tokens(self) -> int:
        return self.cu_seqlens[-1]

    @property
    def num_documents(self) -> int:
        return len(self.cu_seqlens) - 1

    @property
    def max_length(self) -> int:
        return max(self.lengths, default=0)

    def positions(self, device: torch.device | str = "cpu") -> Tensor:
        """positions_T: each document counts from 0."""
        return torch.cat([torch.arange(n) for n in self.lengths] or [torch.empty(0, dtype=torch.long)]).to(device)

    def reaches(self, device: torch.device | str = "cpu") -> Tensor:
        """reach_T: the length of each token's document."""
        lengths_N = torch.tensor(self.lengths, dtype=torch.long)
        return lengths_N.repeat_interleave(lengths_N).to(device)

    @functools.cached_property
    def _groups(self) -> list[_Group]:
        return _group(self)

    def tensor(self, device: torch.device) -> Tensor:
        """cu_seqlens as int32 on a device, kept for the layers that follow."""
        if device not in self._on_device:
            self._on_device[device] = torch.tensor(self.cu_seqlens, dtype=torch.int32, device=device)
        return self._on_device[device]

    @functools.cached_property
    def _on_device(self) -> dict[torch.device, Tensor]:
        return {}


def attention(
    q_THD: Tensor,
    k_TKD: Tensor,
    v_TKD: Tensor,
    bounds: Bounds,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """out_THD. `window` w lets token i see i-w+1 … i; `softcap` c bends scores to c·tanh(score / c) (Gemma 2)."""
    if _varlen_fits(q_THD, softcap):
        return varlen_attention(q_THD, k_TKD, v_TKD, bounds, scale=scale, window=window)
    return padded_attention(q_THD, k_TKD, v_TKD, bounds, scale=scale, window=window, softcap=softcap)


def reference_attention(
    q_THD: Tensor,
    k_TKD: Tensor,
    v_TKD: Tensor,
    bounds: Bounds,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """One document after the other, scores written out. The truth the other paths are tested against."""
    num_shared = q_THD.shape[1] // k_TKD.shape[1]
    outs = []
    for start, end in itertools.pairwise(bounds.cu_seqlens):
        q_HLD = q_THD[start:end].transpose(0, 1)
        k_HLD = k_TKD[start:end].transpose(0, 1).repeat_interleave(num_shared, dim=0)
        v_HLD = v_TKD[start:end].transpose(0, 1).repeat_interleave(num_shared, dim=0)
        outs.append(_written_out(q_HLD, k_HLD, v_HLD, scale, window, softcap).transpose(0, 1))
    return torch.cat(outs) if outs else q_THD.clone()


def varlen_attention(
    q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, bounds: Bounds, *, scale: float, window: int | None = None
) -> Tensor:
    """The flash kernel: no padding, no mask. CUDA, 16-bit only."""
    varlen_attn, has_gqa = _varlen()
    num_shared = q_THD.shape[1] // k_TKD.shape[1]
    if num_shared > 1 and not has_gqa:
        k_TKD, v_TKD = (t.repeat_interleave(num_shared, dim=1) for t in (k_TKD, v_TKD))
    options = {"enable_gqa": True} if num_shared > 1 and has_gqa else {}
    cu = bounds.tensor(q_THD.device)
    left = -1 if window is None or window >= bounds.max_length else window - 1
    out_THD: Tensor = varlen_attn(
        q_THD, k_TKD, v_TKD, cu, cu, bounds.max_length, bounds.max_length,
        scale=scale, window_size=(left, 0), **options,
    )  # fmt: skip
    return out_THD


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
    groups = bounds._groups
    if len(groups) == 1 and groups[0].is_dense:
        return _side_by_side(q_THD, k_TKD, v_TKD, groups[0], scale, window, softcap)
    outs, order = [], []
    for group in groups:
        slots, tokens = group.on(q_THD.device)
        size = group.num_documents * group.length
        q, k, v = (_pad(x, tokens, slots, size) for x in (q_THD, k_TKD, v_TKD))
        outs.append(_unpad(_side_by_side(q, k, v, group, scale, window, softcap), slots))
        order.append(tokens)
    if not outs:
        return q_THD.clone()  # no token at all
    return _reorder(torch.cat(outs), torch.cat(order))


# ---- the padded path's pieces


@dataclass(frozen=True)
class _Group:
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


def _group(bounds: Bounds) -> list[_Group]:
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


def _make_group(bounds: Bounds, documents: list[int]) -> _Group:
    longest = max(bounds.lengths[n] for n in documents)
    slots = [torch.arange(bounds.lengths[n]) + row * longest for row, n in enumerate(documents)]
    tokens = [torch.arange(bounds.cu_seqlens[n], bounds.cu_seqlens[n + 1]) for n in documents]
    is_dense = len(documents) * longest == bounds.num_tokens
    return _Group(len(documents), longest, torch.cat(slots), torch.cat(tokens), is_dense)


def _side_by_side(
    q: Tensor, k: Tensor, v: Tensor, group: _Group, scale: float, window: int | None, softcap: float | None
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
        out_NHLD = _written_out(q_NHLD, k_NHLD, v_NHLD, scale, window, softcap)
    else:
        needs_window = window is not None and window < group.length
        mask_LL = _visible(group.length, window, q.device) if needs_window else None
        out_NHLD = F.scaled_dot_product_attention(
            q_NHLD, k_NKLD, v_NKLD, attn_mask=mask_LL, is_causal=mask_LL is None, scale=scale, enable_gqa=num_shared > 1
        )
    return out_NHLD.transpose(1, 2).reshape(q.shape)


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
    visible_LL = _visible(length, window, torch.device("cpu"))
    return torch.zeros(length, length, dtype=dtype).masked_fill(~visible_LL, float("-inf")).repeat(1, num_shared, 1)


def _written_out(
    q_HLD: Tensor, k_HLD: Tensor, v_HLD: Tensor, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    """softmax(mask(cap(q kᵀ · scale))) v, softmax in fp32; any leading dimensions."""
    scores_HLL = q_HLD @ k_HLD.transpose(-2, -1) * scale
    if softcap is not None:
        scores_HLL = torch.tanh(scores_HLL / softcap) * softcap
    wide = scores_HLL if scores_HLL.dtype == torch.float64 else scores_HLL.float()
    wide = wide.masked_fill(~_visible(q_HLD.shape[-2], window, q_HLD.device), float("-inf"))
    return wide.softmax(-1).to(v_HLD.dtype) @ v_HLD


@functools.lru_cache(maxsize=4)
def _visible(length: int, window: int | None, device: torch.device) -> Tensor:
    """[L, L] bool: may query i see key j."""
    behind_LL = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (behind_LL >= 0) & (behind_LL < window) if window is not None else behind_LL >= 0


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


# ---- the varlen path's pieces


@functools.cache
def _varlen():  # type: ignore[no-untyped-def]
    """(kernel, knows grouped queries); torch 2.11 has the kernel without `enable_gqa`."""
    from torch.nn.attention.varlen import varlen_attn  # absent from some builds of torch; only CUDA needs it

    return varlen_attn, "enable_gqa" in inspect.signature(varlen_attn).parameters


def _varlen_fits(q_THD: Tensor, softcap: float | None) -> bool:
    head_size = q_THD.shape[-1]
    is_kernel_shape = q_THD.dtype in (torch.bfloat16, torch.float16) and head_size % 8 == 0 and head_size <= 256
    return q_THD.is_cuda and is_kernel_shape and softcap is None
