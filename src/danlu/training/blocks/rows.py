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


class Seam:
    """Where a block's backward leaves its gradient for the one below, with the room that this one's product wants
    beside it: autograd hands over the values alone, and copying them to where there is room costs a pass."""

    def __init__(self) -> None:
        self._left: Rows | None = None

    def leave(self, rows: Rows) -> Tensor:
        """What autograd is given."""
        self._left = rows
        return rows.values

    def take(self, values: Tensor, padding: int) -> Rows | None:
        """The rows of which autograd brought these values; None where they come from elsewhere."""
        rows, self._left = self._left, None
        if rows is None or rows.padding.shape[1] != padding:
            return None
        mine = rows.values
        is_same = mine.data_ptr() == values.data_ptr() and mine.shape == values.shape
        return rows if is_same and mine.stride() == values.stride() and mine.dtype == values.dtype else None

    def forget(self) -> None:
        """The step is over, or was cut short."""
        self._left = None
