# ruff: noqa: N815 - shape suffixes
"""What goes into a product, forward or backward: values with room beside them, and codes where products want them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True)
class Rows:
    """`wide` [T, width + padding] holds the values in its first columns and what low-rank pairs add in the others;
    `codes` and `scale_T` are the values in fp8, for a base that multiplies those."""

    wide: Tensor
    width: int
    codes: Tensor | None = None
    scale_T: Tensor | None = None

    @property
    def values(self) -> Tensor:
        return self.wide[:, : self.width]

    @property
    def padding(self) -> Tensor:
        return self.wide[:, self.width :]
