"""Where documents begin and end in the flat layout, and what kernels want to know about that.

Kernels with a plan per shape (cuDNN) take the counts rounded up to a bucket: the end is repeated, which reads as
documents without tokens, and the longest length may be named longer than it is. So a training meets a handful of
shapes, not one per batch.

Shapes: T tokens of all documents, N documents.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

Thing = TypeVar("Thing")
SHORTEST_BUCKET = 128  # a kernel's tile; a shorter maximum saves nothing


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

    @functools.cached_property
    def max_length(self) -> int:
        return max(self.lengths, default=0)

    @functools.cached_property
    def is_even(self) -> bool:
        """All documents are equally long, and there is one: the flat row is a dense batch."""
        return bool(self.max_length) and min(self.lengths) == self.max_length

    def positions(self, device: torch.device | str = "cpu") -> Tensor:
        """positions_T: each document counts from 0."""
        return torch.cat([torch.arange(n) for n in self.lengths] or [torch.empty(0, dtype=torch.long)]).to(device)

    def reaches(self, device: torch.device | str = "cpu") -> Tensor:
        """reach_T: the length of each token's document."""
        lengths_N = torch.tensor(self.lengths, dtype=torch.long)
        return lengths_N.repeat_interleave(lengths_N).to(device)

    @functools.cached_property
    def is_standing(self) -> bool:
        """The ends on the device are overwritten by later batches: see `standing`."""
        return False

    # ---- for kernels

    def tensor(self, device: torch.device) -> Tensor:
        """cu_seqlens as int32 on a device; kept for the layers that follow."""
        if device not in self._on_device:
            self._on_device[device] = torch.tensor(self.cu_seqlens, dtype=torch.int32, device=device)
        return self._on_device[device]

    def standing(self, cu_N1: Tensor, longest: int) -> Bounds:
        """The same documents for a recorded CUDA graph: kernels read their ends from `cu_N1`, which later batches
        overwrite, and take `longest` for the greatest length. Documents without tokens fill up to the buffer's
        count. Kernels that read lengths on the host do not take such bounds."""
        count = len(cu_N1) - 1
        assert count >= self.num_documents and longest >= self.max_length, "the buffer has room for these documents"
        bounds = Bounds((*self.cu_seqlens, *[self.num_tokens] * (count - self.num_documents)))
        bounds.__dict__.update(max_length=longest, is_standing=True)  # answered beforehand
        bounds._on_device[cu_N1.device] = cu_N1
        return bounds

    def derived(self, what: tuple[object, ...], device: torch.device, make: Callable[[], Thing]) -> Thing:
        """Anything else that a kernel makes from these bounds once and needs in every layer. Recorded, it is made once
        more: a replay makes it again from the documents of its batch."""
        key = (device, self.is_standing and torch.cuda.is_current_stream_capturing(), *what)
        if key not in self._derived:
            self._derived[key] = make()
        return cast(Thing, self._derived[key])

    @functools.cached_property
    def _on_device(self) -> dict[torch.device, Tensor]:
        return {}

    @functools.cached_property
    def _derived(self) -> dict[tuple[object, ...], object]:
        return {}


def round_up_count(count: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24 …: at most half as many again, usually a quarter."""
    power = 1 << max(0, count - 1).bit_length()
    return 3 * power // 4 if power >= 4 and count <= 3 * power // 4 else power


def round_up_length(length: int) -> int:
    """The next power of two from 128 on. Kernels leave tiles without tokens at once, so a long name costs little."""
    return max(SHORTEST_BUCKET, 1 << max(0, length - 1).bit_length())
