# ruff: noqa: N815 - shape suffixes
"""What goes into a product, forward or backward: values, what low-rank pairs add beside them, and codes of the values
where products want those."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True)
class Rows:
    """`values` [T, width] and `padding` [T, P]. They are columns of one buffer where a product takes both at once
    (`wide`); a base in fp8 multiplies `codes` with `scale_T` instead, and pairs apart."""

    values: Tensor
    padding: Tensor
    both: Tensor | None = None
    codes: Tensor | None = None
    scale_T: Tensor | None = None

    @classmethod
    def side_by_side(cls, wide: Tensor, width: int) -> Rows:
        return cls(wide[:, :width], wide[:, width:], wide)

    @property
    def wide(self) -> Tensor:
        """[T, width + P]"""
        assert self.both is not None, "these lie apart"
        return self.both
