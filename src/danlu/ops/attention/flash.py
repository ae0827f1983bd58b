"""torch's variable-length flash kernel: no padding, no mask. FlashAttention-2 (Dao, 2023) as torch ships it, on Ampere
and later; FlashAttention-3 and 4 take its place under the same two operators once `activate_flash_attention_impl` has
been called, where their packages are installed.

Shapes: T tokens of all documents, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import attention as sdpa

from danlu.ops.attention.bounds import Bounds
from danlu.ops.attention.kernel import Ask, Heads, Saved, attend

LARGEST_INDEX = 2**31
PACKAGES = {"FA3": "flash_attn_interface", "FA4": "flash_attn.cute"}
"""Successors that torch can put behind its operators, and the module each wants."""


class Flash:
    """`implementation` None is the one torch ships."""

    def __init__(self, implementation: str | None = None) -> None:
        self.implementation = implementation
        self.is_deterministic = implementation is None  # torch passes its deterministic mode on to its own kernel only

    @property
    def name(self) -> str:
        return f"varlen {self.implementation or 'FA2'}"

    def fits(self, heads: Heads, ask: Ask) -> bool:
        return (
            heads.is_16_bit
            and heads.capability >= (8, 0)
            and heads.head_size % 8 == 0
            and heads.head_size <= 256
            and not (heads.has_little_shared_memory and 192 < heads.head_size <= 224)  # its backward has no such tile
            and ask.softcap is None
            and indices_fit(ask.bounds, heads.num_heads, heads.head_size)
            and (self.implementation is None or self._is_installed(heads))
        )

    def _is_installed(self, heads: Heads) -> bool:
        assert self.implementation is not None, "a successor has a name"
        is_card = heads.capability[0] == 9 or (self.implementation == "FA4" and heads.capability[0] >= 9)
        return is_card and has_successor(self.implementation)

    def forward(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, ask: Ask) -> tuple[Tensor, Saved]:
        self._activate()
        cu, longest = ask.bounds.tensor(q_THD.device), ask.bounds.max_length
        is_causal, left, right = _window(ask)
        out_THD, lse, *_ = torch.ops.aten._flash_attention_forward(
            q_THD, k_TKD, v_TKD, cu, cu, longest, longest, 0.0, is_causal, False,
            scale=ask.scale, window_size_left=left, window_size_right=right,
        )  # fmt: skip
        return out_THD, (lse,)

    def backward(
        self, grad_THD: Tensor, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, out_THD: Tensor, saved: Saved, ask: Ask
    ) -> tuple[Tensor, Tensor, Tensor]:
        self._activate()
        cu, longest = ask.bounds.tensor(q_THD.device), ask.bounds.max_length
        is_causal, left, right = _window(ask)
        dropout_state = _no_dropout(q_THD.device)
        dq, dk, dv = torch.ops.aten._flash_attention_backward(
            grad_THD, q_THD, k_TKD, v_TKD, out_THD, saved[0], cu, cu, longest, longest, 0.0, is_causal,
            dropout_state, dropout_state, scale=ask.scale, window_size_left=left, window_size_right=right,
        )  # fmt: skip
        return dq, dk, dv

    def _activate(self) -> None:
        """Which implementation answers is the process's state; it is set where it is not ours."""
        if _active[0] == self.implementation:
            return
        if self.implementation is None:
            sdpa.restore_flash_attention_impl()
        else:
            sdpa.activate_flash_attention_impl(self.implementation)
        _active[0] = self.implementation


_active: list[str | None] = [None]


def varlen_attention(
    q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, bounds: Bounds, *, scale: float, window: int | None = None
) -> Tensor:
    """The flash kernel under autograd. CUDA, 16-bit only."""
    return attend(Flash(), q_THD, k_TKD, v_TKD, Ask(bounds, scale, window))


def indices_fit(bounds: Bounds, num_heads: int, head_size: int) -> bool:
    """FA2's backward counts elements of its padded accumulator in 32 bits and would write past them."""
    return (bounds.num_tokens + 128 * bounds.num_documents) * num_heads * head_size < LARGEST_INDEX


@functools.cache
def has_successor(implementation: str) -> bool:
    package = PACKAGES[implementation]
    return (
        implementation in sdpa.list_flash_attention_impls()
        and hasattr(sdpa, "restore_flash_attention_impl")
        and find_spec(package.partition(".")[0]) is not None
        and find_spec(package) is not None
    )


def _window(ask: Ask) -> tuple[bool, int, int]:
    """(is causal, tokens to the left, tokens to the right); a window is not called causal, as torch does it."""
    if not ask.needs_window:
        return True, -1, 0
    assert ask.window is not None, "a window that is needed has a size"
    return False, ask.window - 1, 0


@functools.lru_cache(maxsize=4)
def _no_dropout(device: torch.device) -> Tensor:
    """The random state that the backward wants even where nothing is dropped."""
    return torch.zeros(2, dtype=torch.uint64, device=device)
