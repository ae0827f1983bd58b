"""A layer's pointwise parts and its attention through compiled loops (`loops.py`), for a CPU with numba. A small
model's step is hundreds of torch calls that cost more than what they compute; so it is a few dozen.

Shapes: T tokens, D hidden, F width of the feed-forward or a head's pairs, E = 2F, N outputs of q, k and v.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danlu.data.twins.compiled import has_numba
from danlu.engines.cached_attention import Prefix
from danlu.engines.kv_tables import Table
from danlu.engines.pointwise import Pointwise
from danlu.engines.products import Layer, Norm
from danlu.model.spec import Spec
from danlu.ops.gated import Activation

Array = np.ndarray[Any, np.dtype[Any]]
MOST_MEETINGS = 1 << 25
"""Numbers of keys that one call's queries may meet: 3 ms of one core. Longer ones are for matrix products, which use
all of torch's threads."""
_NONE = np.empty(0, np.float32)


def can_loop(device: torch.device) -> bool:
    return device.type == "cpu" and has_numba()


def numbers(tensor: Tensor) -> Array:
    """The tensor's memory; bf16 as the bits it is. A narrowed row comes with what lies behind it."""
    if not tensor.is_contiguous():
        tensor = tensor.as_strided((len(tensor), tensor.stride(0)), tensor.stride())
    found: Array = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return found


@functools.cache
def _loops() -> Any:
    from danlu.engines import loops  # half a second, and numba is optional

    return loops


def load_loops() -> None:
    """Called once where they run: most of what their first call takes is the same for every model."""
    if can_loop(torch.device("cpu")):
        Looped(torch.float32).gated(torch.zeros(1, 2), "silu")


class Looped(Pointwise):
    def normed(self, x_TD: Tensor, more_TD: Tensor | None, norm: Norm) -> Tensor:
        out_TD = torch.empty(x_TD.shape, dtype=self.dtype)
        more = numbers(out_TD if more_TD is None else more_TD)
        _loops().add_norm(numbers(x_TD), more, more_TD is not None, *norm.numbers, numbers(out_TD))
        return out_TD

    def gated(self, wide_TE: Tensor, activation: Activation) -> Tensor:
        if activation not in ("silu", "gelu_tanh"):
            return super().gated(wide_TE, activation)
        out_TF = torch.empty((len(wide_TE), wide_TE.shape[1] // 2), dtype=self.dtype)
        _loops().gate(numbers(wide_TE), activation == "gelu_tanh", numbers(out_TF))
        return out_TF


class LoopedAttention:
    """Tokens [begin, end) of a flat row, each with its row of a table and the place in it where it comes to lie.
    `prefix` lies before them all from row `first` on."""

    def __init__(
        self, spec: Spec, table: Table, begin: int, rows: Sequence[int], places: Sequence[int], prefix: Prefix | None
    ) -> None:
        self.spec, self.table, self.begin, self.end = spec, table, begin, begin + len(rows)
        self.row_T, self.place_T, self.prefix = np.array(rows), np.array(places), prefix

    @staticmethod
    def suits(spec: Spec, places: Sequence[int]) -> bool:
        return (sum(places) + len(places)) * spec.num_heads * spec.head_size <= MOST_MEETINGS

    def meet(self, number: int, layer: Layer, qkv: Array, turn: Array, out: Array) -> None:
        """qkv_TN and turn_TF2 (cosine, sine) of the whole flat row; out_TX gets what attention says of these tokens."""
        spec, window = self.spec, self.spec.windows[number]
        keys, values = self.table.keys[number], self.table.values[number]
        if self.prefix is not None:
            first, last = int(self.row_T[0]), int(self.row_T[-1]) + 1
            keys[first:last, :, : self.prefix.length] = self.prefix.keys[number]
            values[first:last, :, : self.prefix.length] = self.prefix.values[number]
        norm_q, norm_k = layer.norm_q, layer.norm_k
        _loops().attend(
            qkv, turn, self.begin, self.row_T, self.place_T, numbers(keys), numbers(values),
            np.float32(spec.attention_scale), np.float32(spec.attention_softcap or 0), window or self.table.size,
            norm_q.numbers[0] if norm_q else _NONE, norm_k.numbers[0] if norm_k else _NONE,
            norm_q.numbers[1] if norm_q else np.float32(0), out,
        )  # fmt: skip

    def done(self) -> None:
        for row, place in zip(self.row_T.tolist(), self.place_T.tolist(), strict=True):
            self.table.lengths[row] = place + 1
