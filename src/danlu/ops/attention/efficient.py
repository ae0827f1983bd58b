"""torch's memory-efficient attention over a packed row (Rabe & Staats, 2021; the CUTLASS kernel of xFormers): for cards
before Ampere, where no flash kernel runs, and for fp32.

It knows no shared key heads: they are repeated, and their gradients summed.

Shapes: T tokens of all documents, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.attention.kernel import Ask, Heads, Saved

CAUSAL = 1  # the operator's number for "causal from the top left"


class Efficient:
    name = "varlen memory-efficient"
    is_deterministic = False

    def fits(self, heads: Heads, ask: Ask) -> bool:
        is_dtype = heads.dtype in (torch.float16, torch.float32) or (heads.is_16_bit and heads.capability >= (8, 0))
        return (
            is_dtype
            and heads.capability >= (5, 0)
            and heads.head_size % 8 == 0
            and ask.softcap is None
            and not ask.needs_window
            and ask.bounds.num_tokens > 0
        )

    def forward(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, ask: Ask) -> tuple[Tensor, Saved]:
        cu, longest = ask.bounds.tensor(q_THD.device), ask.bounds.max_length
        k_THD, v_THD = (_repeated(x, q_THD.shape[1]) for x in (k_TKD, v_TKD))
        out, lse, *_ = torch.ops.aten._efficient_attention_forward(
            q_THD[None], k_THD[None], v_THD[None], None, cu, cu, longest, longest, 0.0, CAUSAL, True, scale=ask.scale
        )
        return out[0], (lse,)

    def backward(
        self, grad_THD: Tensor, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, out_THD: Tensor, saved: Saved, ask: Ask
    ) -> tuple[Tensor, Tensor, Tensor]:
        cu, longest = ask.bounds.tensor(q_THD.device), ask.bounds.max_length
        k_THD, v_THD = (_repeated(x, q_THD.shape[1]) for x in (k_TKD, v_TKD))
        unused = torch.zeros((), dtype=torch.int64)
        dq, dk, dv, _ = torch.ops.aten._efficient_attention_backward(
            grad_THD[None], q_THD[None], k_THD[None], v_THD[None], None, out_THD[None], cu, cu, longest, longest,
            saved[0], 0.0, unused, unused, CAUSAL, False, scale=ask.scale,
        )  # fmt: skip
        return dq[0], _summed(dk[0], k_TKD.shape[1]), _summed(dv[0], k_TKD.shape[1])


def _repeated(x_TKD: Tensor, num_heads: int) -> Tensor:
    num_shared = num_heads // x_TKD.shape[1]
    return x_TKD if num_shared == 1 else x_TKD.repeat_interleave(num_shared, dim=1)


def _summed(x_THD: Tensor, num_kv_heads: int) -> Tensor:
    if x_THD.shape[1] == num_kv_heads:
        return x_THD
    return x_THD.view(len(x_THD), num_kv_heads, -1, x_THD.shape[2]).sum(2)
