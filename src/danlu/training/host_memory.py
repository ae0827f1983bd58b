"""Pinned memory of the machine in one piece and of the exact size, for state that stays for the whole training.

torch's own pinned allocator rounds every piece up to a power of two, which would ask for up to twice the 90 GB that
masters and moments of 7.6 billion weights take. Here pages are mapped, touched by all threads, and then registered with
CUDA, so that the card reads and writes them by itself. On a CPU it is plain memory.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import weakref

import torch
from torch import Tensor

from danlu.core.errors import TrainingError
from danlu.core.memory import available_bytes

ALIGNMENT_BYTES = 256
SPARE_BYTES = 2 * 2**30
"""Left to everything else on the machine."""


class HostMemory:
    """Zeros, handed out one tensor after another. TrainingError where the machine has less than is asked for, said
    before anything is taken."""

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        available = available_bytes()
        if num_bytes + SPARE_BYTES > available:
            gc.collect()  # an earlier stage's states may wait for that
            available = available_bytes()
        if num_bytes + SPARE_BYTES > available:
            raise TrainingError(
                "training.offload_memory", where="adapter.offload",
                needed=f"{num_bytes / 2**30:.1f}", free=f"{available / 2**30:.1f}",
            )  # fmt: skip
        pages = _pages(max(num_bytes, mmap.PAGESIZE))
        self._bytes, self._taken = torch.frombuffer(pages, dtype=torch.uint8).zero_(), 0
        if device.type == "cuda":
            _pin(self._bytes)
            # Nothing may be under way in what is let go; at the end of a process the system lets go of everything.
            weakref.finalize(self, _unpin, self._bytes).atexit = False

    def zeros(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        """The next so many zeros, flat."""
        size = num_elements * dtype.itemsize
        part = self._bytes[self._taken : self._taken + size]
        assert len(part) == size, "all that lies here was counted before"
        self._taken += room_for(num_elements, dtype)
        return part.view(dtype)


def room_for(num_elements: int, dtype: torch.dtype) -> int:
    """Bytes that a tensor takes here."""
    return -(-num_elements * dtype.itemsize // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _pages(num_bytes: int) -> mmap.mmap:
    """Fresh pages, huge ones where the system has them: fewer to touch and to pin, by a factor of 512."""
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return mmap.mmap(-1, num_bytes)
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


def _pin(memory: Tensor) -> None:
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    code = int(runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
    if code:
        raise TrainingError(
            "training.offload_not_pinned", where="adapter.offload", given=f"{memory.nbytes / 2**30:.1f}", code=code
        )


def _unpin(memory: Tensor) -> None:
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())  # type: ignore[no-untyped-call]
