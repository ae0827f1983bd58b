"""A piece: some thousand rows of one shard after the row stages. What whole-data steps see are its small columns.

Two forms with one face: `Piece` in memory, `StoredPiece` (store.py) on disk. Rows of all pieces are numbered through,
in the order of sources, files and lines; columns of a piece have one element per row, dropped rows included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from danlu.data.flow.marks import Mark
from danlu.data.ledger import Entry
from danlu.data.sample import Origin, Sample

KINDS = ("conversation", "preference", "feedback", "label", "document")
LEVELS = ("", "public", "internal", "confidential", "restricted")
"""By rank; "" where no privacy stage graded the row."""


@dataclass(slots=True)
class Row:
    """One row that was read. `sample` is None once a stage dropped it; its last mark says why."""

    sample: Sample | None
    origin: Origin
    id: str = ""
    """Of the sample as it left the last stage; "" for a dropped row."""
    marks: tuple[Mark, ...] = ()
    seat: int = 0
    """Tells apart rows that stand on one line."""


class AnyPiece(Protocol):
    """What whole-data steps and streams ask of a piece."""

    @property
    def columns(self) -> Mapping[str, npt.NDArray[Any]]:
        """Of the twins (`danlu.data.twins`), and here: `alive` bool, `kind` uint8, `level` uint8 (ranks in LEVELS)."""
        ...

    @property
    def refused(self) -> Sequence[Entry]:
        """Rows that the reader could not use."""
        ...

    @property
    def records(self) -> Sequence[Mapping[str, Any]]:
        """What privacy put on record, as JSON."""
        ...

    def __len__(self) -> int: ...

    def rows(self, wanted: npt.NDArray[np.bool_] | None = None) -> Iterator[tuple[int, Row]]:
        """(number within the piece, row), of those wanted or all."""
        ...

    def told(self) -> Iterator[tuple[int, Origin, int, tuple[Mark, ...]]]:
        """(number, origin, seat, marks) of all rows, without opening their content."""
        ...


@dataclass(slots=True)
class Piece:
    """In memory."""

    kept: list[Row]
    columns: Mapping[str, npt.NDArray[Any]]
    refused: list[Entry] = field(default_factory=list)
    records: list[Mapping[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.kept)

    def rows(self, wanted: npt.NDArray[np.bool_] | None = None) -> Iterator[tuple[int, Row]]:
        chosen = range(len(self.kept)) if wanted is None else np.flatnonzero(wanted).tolist()
        return ((number, self.kept[number]) for number in chosen)

    def told(self) -> Iterator[tuple[int, Origin, int, tuple[Mark, ...]]]:
        return ((number, row.origin, row.seat, row.marks) for number, row in enumerate(self.kept))


def facts_of(rows: Sequence[Row]) -> dict[str, npt.NDArray[Any]]:
    """The conveyor's own columns."""
    samples = [row.sample for row in rows]
    return {
        "alive": np.array([sample is not None for sample in samples], dtype=bool),
        "kind": np.array([KINDS.index(sample.kind) if sample else 0 for sample in samples], dtype=np.uint8),
        "level": np.array([_rank(sample) if sample else 0 for sample in samples], dtype=np.uint8),
    }


def _rank(sample: Sample) -> int:
    level = sample.tags.get("level")
    return LEVELS.index(level) if level in LEVELS else 0


def num_rows(pieces: Sequence[AnyPiece]) -> int:
    return sum(map(len, pieces))


def joined(pieces: Sequence[AnyPiece], name: str) -> npt.NDArray[Any]:
    """One column over all pieces."""
    parts = [np.asarray(piece.columns[name]) for piece in pieces]
    return np.concatenate(parts) if parts else np.zeros(0, bool)


def streamed(pieces: Sequence[AnyPiece], wanted: npt.NDArray[np.bool_]) -> Iterator[tuple[int, Row]]:
    """(number through all pieces, row) of the rows wanted, piece after piece: one piece is open at a time."""
    first = 0
    for piece in pieces:
        own = wanted[first : first + len(piece)]
        if own.any():
            for number, row in piece.rows(own):
                yield first + number, row
        first += len(piece)
