"""Keys and values of rows at very different lengths: a table for each power of two, and a row moves to the next one
when it has outgrown its own. So attention reads at most twice what a row holds, however long its neighbours are, and
memory is at most four times the tokens that are held (a table, and its number of rows, grow by doubling).

Shapes: B rows, K key/value heads, M places, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.engines.rows import Row
from danlu.model.spec import Spec

SMALLEST = 64
FEWEST_ROWS = 8
AHEAD = 16
"""A prompt goes where so many tokens of its answer fit too."""


class Table:
    """Rows in use stand first; `lengths` are the tokens that each holds."""

    def __init__(self, spec: Spec, size: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.spec, self.size, self.dtype, self.device = spec, size, dtype, device
        self.rows: list[Row] = []
        self.lengths: list[int] = []
        self.capacity = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def seat(self, rows: Sequence[Row], length: int = 0) -> int:
        """Places for rows behind those in use; the first one's number."""
        first = len(self.rows)
        self._grow(first + len(rows))
        self.rows += rows
        self.lengths += [length] * len(rows)
        return first

    def adopt(self, other: Table, places: Sequence[int]) -> None:
        """Those of another table's rows, behind mine."""
        first = self.seat([other.rows[place] for place in places])
        last = first + len(places)
        self.lengths[first:] = [other.lengths[place] for place in places]
        length = max(self.lengths[first:])
        chosen = torch.tensor(places, device=self.device)
        for mine, theirs in zip((*self.keys, *self.values), (*other.keys, *other.values), strict=True):
            mine[first:last, :, :length] = theirs[:, :, :length].index_select(0, chosen)

    def drop(self, places: Sequence[int]) -> None:
        """These rows are gone; the last ones move into their places."""
        gone = set(places)
        num_left = len(self.rows) - len(gone)
        staying = [place for place in range(num_left, len(self.rows)) if place not in gone]
        free = sorted(place for place in gone if place < num_left)
        if staying:
            sources, targets = torch.tensor([staying, free], device=self.device)
            length = max(self.lengths[place] for place in staying)
            for held in (*self.keys, *self.values):
                held[targets, :, :length] = held[sources, :, :length]
            for source, target in zip(staying, free, strict=True):
                self.rows[target], self.lengths[target] = self.rows[source], self.lengths[source]
        del self.rows[num_left:], self.lengths[num_left:]

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def _grow(self, num_rows: int) -> None:
        if num_rows <= self.capacity:
            return
        capacity = max(FEWEST_ROWS if self.size <= 16 * SMALLEST else 1, 2 * self.capacity, num_rows)
        shape = (capacity, self.spec.num_kv_heads, self.size, self.spec.head_size)
        used = len(self.rows)
        for held in (self.keys, self.values):
            # zeros: what is never written is looked at behind a mask, and must be a number
            fresh = [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(self.spec.num_layers)]
            for old, new in zip(held, fresh, strict=False):
                new[:used] = old[:used]
            held[:] = fresh
        self.capacity = capacity


class Tables:
    """All tables, and where each row is."""

    def __init__(self, spec: Spec, *, dtype: torch.dtype, device: torch.device) -> None:
        self.spec, self.dtype, self.device = spec, dtype, device
        self.by_size: dict[int, Table] = {}

    def __iter__(self):  # type: ignore[no-untyped-def]
        return (table for table in self.by_size.values() if table.rows)

    def table_for(self, num_tokens: int) -> Table:
        size = SMALLEST
        while size < num_tokens:
            size *= 2
        if size not in self.by_size:
            self.by_size[size] = self.new(size)
        return self.by_size[size]

    def new(self, size: int) -> Table:
        return Table(self.spec, size, dtype=self.dtype, device=self.device)

    def make_room(self) -> None:
        """Every row can take one more token."""
        for table in sorted(self, key=lambda table: -table.size):
            full = [place for place, length in enumerate(table.lengths) if length >= table.size]
            if full:
                self.table_for(table.size + 1).adopt(table, full)
                table.drop(full)

    def drop(self, rows: Sequence[Row]) -> None:
        """Rows that have no seat are passed over. A table without rows gives its memory back."""
        gone = set(map(id, rows))
        for table in list(self):
            places = [place for place, row in enumerate(table.rows) if id(row) in gone]
            if places:
                table.drop(places)
            if not table.rows and table.size > 4 * SMALLEST:
                del self.by_size[table.size]

    @property
    def num_places(self) -> int:
        """Tokens' places that are allocated."""
        return sum(table.capacity * table.size for table in self.by_size.values())
