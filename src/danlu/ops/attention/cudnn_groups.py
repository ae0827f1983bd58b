# ruff: noqa: N815 - shape suffixes
"""cuDNN's dense attention for documents of mixed lengths: those of like length stand side by side in rows.

Padding stands after every real key, so causality alone hides it; a padding slot holds another token's values (finite,
whatever they are) and its gradient is zero, so it teaches nothing. Lengths and row counts come in buckets, for cuDNN
keeps a plan per shape. Costs a gather of q, k, v and a scatter of the output beside the attention itself.

Shapes: T tokens of all documents, P slots of all rows, R rows of a group, L their length, H query heads, D head size.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.ops.attention.bounds import Bounds, round_up_count
from danlu.ops.attention.cudnn import cudnn_fits
from danlu.ops.attention.kernel import Ask, Heads, Saved

LENGTHS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Of rows; beyond, multiples of 1024."""
MOST_GROUPS = 8  # more launches than that cost more than they save


@dataclass(frozen=True, slots=True)
class Groups:
    """`shapes`: (rows, length) of each group; `token_P`: which token fills each slot; `slot_T`: where each token is."""

    shapes: tuple[tuple[int, int], ...]
    token_P: Tensor
    slot_T: Tensor


class CudnnGroups:
    name = "cuDNN groups"
    is_deterministic = False

    def fits(self, heads: Heads, ask: Ask) -> bool:
        is_plain = ask.softcap is None and not ask.needs_window
        return cudnn_fits(heads) and is_plain and ask.bounds.num_tokens > 0 and not ask.bounds.is_even

    def forward(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, ask: Ask) -> tuple[Tensor, Saved]:
        groups = groups_of(ask.bounds, q_THD.device)
        rows = [_rows(x, groups) for x in (q_THD, k_TKD, v_TKD)]
        outs, lses = [], []
        for q, k, v in zip(*rows, strict=True):
            out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
                q, k, v, None, True, 0.0, True, False, scale=ask.scale
            )
            outs.append(_slots(out))
            lses.append(lse)
        return torch.cat(outs).index_select(0, groups.slot_T), tuple(lses)

    def backward(
        self, grad_THD: Tensor, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, out_THD: Tensor, saved: Saved, ask: Ask
    ) -> tuple[Tensor, Tensor, Tensor]:
        groups = groups_of(ask.bounds, q_THD.device)
        rows = [_rows(x, groups) for x in (q_THD, k_TKD, v_TKD, out_THD)]
        silent_PHD = grad_THD.new_zeros(len(groups.token_P), *grad_THD.shape[1:])
        grads = _split(silent_PHD.index_copy_(0, groups.slot_T, grad_THD), groups)
        unused = torch.empty(0, dtype=torch.int64, device=q_THD.device)
        parts: list[list[Tensor]] = []
        for grad, lse, q, k, v, out in zip(grads, saved, *rows, strict=True):
            L = q.shape[2]
            found = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
                grad, q, k, v, out, lse, unused, unused, None, None, None, L, L, 0.0, True, scale=ask.scale
            )
            parts.append([_slots(x) for x in found])
        dq, dk, dv = (torch.cat(part).index_select(0, groups.slot_T) for part in zip(*parts, strict=True))
        return dq, dk, dv


def groups_of(bounds: Bounds, device: torch.device) -> Groups:
    """Made once per batch and device; layers that follow find it."""
    return bounds.derived(("groups",), device, lambda: make_groups(bounds, device))


def make_groups(bounds: Bounds, device: torch.device) -> Groups:
    members: dict[int, list[int]] = {}
    for n, length in enumerate(bounds.lengths):
        if length:
            members.setdefault(row_length(length), []).append(n)
    for shortest in sorted(members)[: max(0, len(members) - MOST_GROUPS)]:  # join the next longer one
        longer = min(length for length in members if length > shortest)
        members[longer] += members.pop(shortest)
    shapes, tokens = [], []
    slot_T = torch.empty(bounds.num_tokens, dtype=torch.long)
    num_slots = 0
    for length, documents in sorted(members.items()):
        rows_RL = torch.zeros(round_up_count(len(documents)), length, dtype=torch.long)
        for row, n in enumerate(sorted(documents)):
            start, end = bounds.cu_seqlens[n], bounds.cu_seqlens[n + 1]
            rows_RL[row, : end - start] = torch.arange(start, end)
            slot_T[start:end] = num_slots + row * length + torch.arange(end - start)
        shapes.append((len(rows_RL), length))
        tokens.append(rows_RL.flatten())
        num_slots += rows_RL.numel()
    return Groups(tuple(shapes), torch.cat(tokens).to(device), slot_T.to(device))


def row_length(length: int) -> int:
    if length > LENGTHS[-1]:
        return -(-length // 1024) * 1024
    return LENGTHS[bisect_left(LENGTHS, length)]


def _rows(x_THD: Tensor, groups: Groups) -> list[Tensor]:
    return _split(x_THD.index_select(0, groups.token_P), groups)


def _split(x_PHD: Tensor, groups: Groups) -> list[Tensor]:
    """[R, H, L, D] of each group, views."""
    pieces = torch.split(x_PHD, [rows * length for rows, length in groups.shapes])
    return [
        piece.view(rows, length, *x_PHD.shape[1:]).transpose(1, 2)
        for piece, (rows, length) in zip(pieces, groups.shapes, strict=True)
    ]


def _slots(x_RHLD: Tensor) -> Tensor:
    return x_RHLD.transpose(1, 2).reshape(-1, x_RHLD.shape[1], x_RHLD.shape[3])
