"""Many small matrices copied, scaled and rounded into places of their own in one launch.

After each update an adapter's fp32 masters are written into the 16-bit matrices that products read: two small kernels
for each layer otherwise, hundreds in a step of a small model, of a few microseconds each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.ops.kernels import fits, jit, tl

ELEMENTS = 2048  # of a program


@dataclass(frozen=True, slots=True)
class Copy:
    """target = scale · source. The source is contiguous; the target's rows may lie apart. Both [M, N]."""

    source: Tensor
    target: Tensor
    scale: float = 1.0


class ManyCopies:
    """Made once for tensors that stay where they are: it remembers addresses, and holds the tensors so that nothing
    else is ever found there. Whoever moves one makes a new `ManyCopies`."""

    def __init__(self, copies: Sequence[Copy]) -> None:
        self.copies = list(copies)
        for copy in self.copies:
            assert copy.source.shape == copy.target.shape and copy.source.ndim == 2, "copies are of one shape"
            assert copy.source.is_contiguous() and copy.target.stride(1) == 1, "rows are contiguous"
        sources, targets = [copy.source for copy in self.copies], [copy.target for copy in self.copies]
        self._has_kernel = (
            bool(copies)
            and fits(*sources, *targets)
            and len({tensor.dtype for tensor in sources}) == len({tensor.dtype for tensor in targets}) == 1
            and all(copy.source.numel() < 2**31 for copy in self.copies)
        )
        if self._has_kernel:
            self._write_table()

    def _write_table(self) -> None:
        device = self.copies[0].source.device
        numbers = [
            (c.source.data_ptr(), c.target.data_ptr(), c.source.numel(), c.source.shape[1], c.target.stride(0))
            for c in self.copies
        ]
        programs = [-(-c.source.numel() // ELEMENTS) for c in self.copies]
        starts = [(at, first) for at, count in enumerate(programs) for first in range(count)]
        self._table = torch.tensor(numbers, dtype=torch.int64, device=device)
        self._scales = torch.tensor([c.scale for c in self.copies], dtype=torch.float32, device=device)
        self._starts = torch.tensor(starts, dtype=torch.int32, device=device)

    @torch.no_grad()
    def __call__(self) -> None:
        if not self._has_kernel:
            for copy in self.copies:
                torch.mul(copy.source, copy.scale, out=copy.target)
            return
        first = self.copies[0]
        if len(self._starts):
            _copy_kernel[(len(self._starts),)](
                self._table, self._scales, self._starts, first.source, first.target, ELEMENTS=ELEMENTS, num_warps=4
            )


@jit
def _copy_kernel(table, scales, starts, any_source, any_target, ELEMENTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """`any_source` and `any_target` are there for their types."""
    program = tl.program_id(0)
    copy, first = tl.load(starts + 2 * program), tl.load(starts + 2 * program + 1)
    source = tl.load(table + 5 * copy).to(any_source.dtype)
    target = tl.load(table + 5 * copy + 1).to(any_target.dtype)
    num_elements = tl.load(table + 5 * copy + 2).to(tl.int32)
    num_columns, row_stride = tl.load(table + 5 * copy + 3).to(tl.int32), tl.load(table + 5 * copy + 4)
    element_E = first * ELEMENTS + tl.arange(0, ELEMENTS)
    mask_E = element_E < num_elements
    values_E = tl.load(source + element_E, mask=mask_E, other=0.0).to(tl.float32) * tl.load(scales + copy)
    row_E, column_E = element_E // num_columns, element_E % num_columns
    tl.store(target + row_E.to(tl.int64) * row_stride + column_E, values_E, mask=mask_E)
