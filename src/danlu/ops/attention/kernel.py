"""What an attention kernel is to us: a forward and a backward that can be called apart.

Apart, because a hand-written block saves and calls them itself; `attend` joins them for autograd. To add a kernel:
one file with a `Kernel`, and its name in `choice.KERNELS`.

Contract: q_THD, k_TKD, v_TKD may be slices of one wider row (last dimension contiguous) and are not copied; out_THD is
contiguous, whatever is saved beside it too; gradients may have any strides.

Shapes: T tokens of all documents, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeGuard, cast

import torch
from torch import Tensor

from danlu.ops.attention.bounds import Bounds

Saved = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of a kernel beside the tensors. `window` w lets token i see i-w+1 … i; `softcap` c bends scores to
    c·tanh(score / c)."""

    bounds: Bounds
    scale: float
    window: int | None = None
    softcap: float | None = None

    @property
    def needs_window(self) -> bool:
        return self.window is not None and self.window < self.bounds.max_length


@dataclass(frozen=True, slots=True)
class Heads:
    """What a kernel must be able to take: decided before it is called."""

    dtype: torch.dtype
    num_heads: int
    num_kv_heads: int
    head_size: int
    capability: tuple[int, int]
    """Of the card: (9, 0) is Hopper."""

    @classmethod
    def of(cls, q_THD: Tensor, k_TKD: Tensor) -> Heads:
        capability = torch.cuda.get_device_capability(q_THD.device) if q_THD.is_cuda else (0, 0)
        return cls(q_THD.dtype, q_THD.shape[1], k_TKD.shape[1], q_THD.shape[2], capability)

    @property
    def has_little_shared_memory(self) -> bool:
        """Cards for desks: 99 KiB a block, where data-centre cards have 163 and more."""
        return (8, 0) < self.capability < (9, 0) or self.capability >= (12, 0)

    @property
    def is_16_bit(self) -> bool:
        return self.dtype in (torch.bfloat16, torch.float16)


class Kernel(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def is_deterministic(self) -> bool:
        """The same bits again, where torch is asked for deterministic algorithms."""
        ...

    def fits(self, heads: Heads, ask: Ask) -> bool:
        """It exists here and can take this; speed is measured, not guessed."""
        ...

    def forward(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, ask: Ask) -> tuple[Tensor, Saved]:
        """out_THD and what the backward wants beside inputs and output (usually the log-sum-exp of scores)."""
        ...

    def backward(
        self, grad_THD: Tensor, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, out_THD: Tensor, saved: Saved, ask: Ask
    ) -> tuple[Tensor, Tensor, Tensor]: ...


class Plain(Protocol):
    """A kernel that torch differentiates by itself."""

    @property
    def name(self) -> str: ...

    @property
    def is_deterministic(self) -> bool: ...

    def fits(self, heads: Heads, ask: Ask) -> bool: ...

    def run(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, ask: Ask) -> Tensor: ...


AnyKernel = Kernel | Plain


def is_plain(kernel: AnyKernel) -> TypeGuard[Plain]:
    return hasattr(kernel, "run")


def run(kernel: AnyKernel, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, ask: Ask) -> Tensor:
    """Any kernel under autograd."""
    if is_plain(kernel):
        return kernel.run(q_THD, k_TKD, v_TKD, ask)
    return attend(cast(Kernel, kernel), q_THD, k_TKD, v_TKD, ask)


def attend(kernel: Kernel, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, ask: Ask) -> Tensor:
    """A kernel under autograd."""
    out: Tensor = _Attend.apply(q_THD, k_TKD, v_TKD, kernel, ask)  # type: ignore[no-untyped-call]
    return out


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q_THD, k_TKD, v_TKD, kernel, ask):  # type: ignore[no-untyped-def]
        out_THD, saved = kernel.forward(q_THD.detach(), k_TKD.detach(), v_TKD.detach(), ask)
        ctx.save_for_backward(q_THD, k_TKD, v_TKD, out_THD, *saved)
        ctx.kernel, ctx.ask = kernel, ask
        return out_THD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_THD):  # type: ignore[no-untyped-def]
        q_THD, k_TKD, v_TKD, out_THD, *saved = ctx.saved_tensors
        return (*ctx.kernel.backward(grad_THD, q_THD, k_TKD, v_TKD, out_THD, tuple(saved), ctx.ask), None, None)


def packed(grad_THD: Tensor) -> Tensor:
    """A gradient in the output's own layout: cuDNN's cached plans do not look at its strides."""
    return grad_THD if grad_THD.is_contiguous() else grad_THD.contiguous()
