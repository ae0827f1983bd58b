"""Attention of encoders: each token sees its whole document, before it and after it, and no other document.

Documents of like length lie side by side in padded rows, as in `padded.py`; padding is hidden from queries by a mask.
On a card it runs through the same call of torch: there is no kernel of its own here.

Shapes: T tokens of all documents, N documents of a group, L its longest, H heads, D head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

from danlu.ops.attention.bounds import Bounds
from danlu.ops.attention.padded import Group, over_groups


def bidirectional_attention(
    q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, bounds: Bounds, *, scale: float, dropout: float = 0.0
) -> Tensor:
    """out_THD. `dropout` is the share of attention's weights that is dropped, 0 outside training."""

    def inside(q: Tensor, k: Tensor, v: Tensor, group: Group) -> Tensor:
        q_NHLD, k_NHLD, v_NHLD = (
            x.view(group.num_documents, group.length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v)
        )
        out_NHLD = F.scaled_dot_product_attention(
            q_NHLD, k_NHLD, v_NHLD, attn_mask=_real(group, q), scale=scale, dropout_p=dropout
        )
        return out_NHLD.transpose(1, 2).reshape(q.shape)

    return over_groups(q_THD, k_THD, v_THD, bounds, inside)


def _real(group: Group, like: Tensor) -> Tensor | None:
    """mask_N11L: which places hold a token; None where all do."""
    if group.num_documents * group.length == len(group.slots):
        return None
    real_NL = torch.zeros(group.num_documents * group.length, dtype=torch.bool, device=like.device)
    real_NL[group.on(like.device)[0]] = True
    return real_NL.view(group.num_documents, 1, 1, group.length)
