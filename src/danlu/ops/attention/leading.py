"""Most documents equally long, some shorter: the equal ones, which lead the row, as a dense batch on cuDNN, the rest on
the flash kernel. Text cut to one context gives such rows, where `training.batches` lays the longest first.

Shapes: T tokens of all documents, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.attention.bounds import Bounds
from danlu.ops.attention.cudnn import CudnnDense
from danlu.ops.attention.flash import Flash
from danlu.ops.attention.kernel import Ask, Heads, Saved

SMALLEST_RATIO = 0.25  # of the row's tokens that are equal; below, two launches are not worth it


class Leading:
    name = "cuDNN + varlen FA2"
    is_deterministic = False

    def __init__(self) -> None:
        self._equal, self._rest = CudnnDense(), Flash()

    def fits(self, heads: Heads, ask: Ask) -> bool:
        bounds = ask.bounds
        num_tokens = num_leading(bounds) * bounds.max_length
        if bounds.is_standing or ask.needs_window or bounds.is_even or num_tokens < SMALLEST_RATIO * bounds.num_tokens:
            return False
        equal, rest = asks_of(ask)
        return self._equal.fits(heads, equal) and self._rest.fits(heads, rest)

    def forward(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, ask: Ask) -> tuple[Tensor, Saved]:
        (equal, rest), at = asks_of(ask), border(ask)
        out, saved = self._equal.forward(q_THD[:at], k_TKD[:at], v_TKD[:at], equal)
        other, also = self._rest.forward(q_THD[at:], k_TKD[at:], v_TKD[at:], rest)
        return torch.cat([out, other]), (*saved, *also)

    def backward(
        self, grad_THD: Tensor, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, out_THD: Tensor, saved: Saved, ask: Ask
    ) -> tuple[Tensor, Tensor, Tensor]:
        (equal, rest), at = asks_of(ask), border(ask)
        parts = zip(
            self._equal.backward(grad_THD[:at], q_THD[:at], k_TKD[:at], v_TKD[:at], out_THD[:at], saved[:1], equal),
            self._rest.backward(grad_THD[at:], q_THD[at:], k_TKD[at:], v_TKD[at:], out_THD[at:], saved[1:], rest),
            strict=True,
        )
        dq, dk, dv = (torch.cat(part) for part in parts)
        return dq, dk, dv


def num_leading(bounds: Bounds) -> int:
    """How many documents from the first on are as long as the longest."""
    return next((n for n, m in enumerate(bounds.lengths) if m != bounds.max_length), bounds.num_documents)


def border(ask: Ask) -> int:
    return num_leading(ask.bounds) * ask.bounds.max_length


def asks_of(ask: Ask) -> tuple[Ask, Ask]:
    """The row's two parts as rows of their own; kept, for their bounds keep tensors for the layers that follow."""
    return ask.bounds.derived(("leading", ask.scale, ask.window), torch.device("cpu"), lambda: _split(ask))


def _split(ask: Ask) -> tuple[Ask, Ask]:
    count, lengths = num_leading(ask.bounds), ask.bounds.lengths
    equal, rest = Bounds.of(lengths[:count]), Bounds.of(lengths[count:])
    return Ask(equal, ask.scale, ask.window, ask.softcap), Ask(rest, ask.scale, ask.window, ask.softcap)
