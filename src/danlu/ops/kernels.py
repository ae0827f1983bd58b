"""What the kernels of this room share: Triton if it is installed, and when a kernel may run.

Triton is optional. Without it `jit` leaves a kernel's text as it is, nothing calls it, and each op takes its torch
path. Kernels are launched with parameters that plain rules draw from the shapes: nothing is tuned at run time, which
would cost a short job more than it gains. They run on the current CUDA device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, overload

import torch
from torch import Tensor

from danlu.ops.capability import capability_of

try:
    import triton
    import triton.language as tl
except ImportError:  # wheels for macOS, Windows and CPU come without
    triton = tl = None

__all__ = ["HAS_TRITON", "IS_INTERPRETED", "fits", "has_kernels", "jit", "power_of_2", "tl", "triton"]

HAS_TRITON: bool = triton is not None
IS_INTERPRETED: bool = HAS_TRITON and bool(triton.knobs.runtime.interpret)
"""Triton's own debugging mode runs kernels on the CPU, slowly: how tests hold them to the references without a GPU."""


class Kernel(Protocol):
    """A compiled function: `kernel[grid](…)` launches it, a plain call stands inside other kernels."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]: ...

    def __call__(self, *args: Any) -> Any: ...


@overload
def jit(kernel: Callable[..., Any]) -> Kernel: ...


@overload
def jit(*, do_not_specialize: Sequence[str] = ...) -> Callable[[Callable[..., Any]], Kernel]: ...


def jit(kernel: Callable[..., Any] | None = None, *, do_not_specialize: Sequence[str] = ()) -> Any:
    """`triton.jit`, with or without parentheses. Arguments that change from call to call (numbers of tokens) are named
    in `do_not_specialize`, or each divisibility of theirs would be compiled anew."""
    if kernel is None:
        return functools.partial(jit, do_not_specialize=do_not_specialize)
    return triton.jit(kernel, do_not_specialize=list(do_not_specialize)) if HAS_TRITON else kernel


def fits(*tensors: Tensor | None) -> bool:
    """Whether a kernel may take these: all on a card that Triton compiles for, none in fp64 (whose statistics would be
    cut to fp32)."""
    return HAS_TRITON and all(
        tensor.dtype != torch.float64 and (has_kernels(tensor.device) if tensor.is_cuda else IS_INTERPRETED)
        for tensor in tensors
        if tensor is not None
    )


@functools.cache
def has_kernels(device: torch.device) -> bool:
    """Whether Triton's compiler supports this CUDA card."""
    return capability_of(*torch.cuda.get_device_capability(device), torch.__version__).has_kernels


def power_of_2(size: int) -> int:
    """The least power of two not below `size`: widths of Triton's tiles."""
    return 1 << max(size - 1, 0).bit_length()
