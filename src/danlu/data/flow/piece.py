"""A piece: some thousand rows of one shard after the row stages. What whole-data steps see are its small columns.

Two forms with one face: `Piece` in memory, `StoredPiece` (store.py) on disk. Rows of all pieces are numbered through,
in the order of sources, files and lines; columns of a piece have one element per row, dropped rows included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
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
    packed: bytes | None = None
    """The content as JSON (codec.py), where it was packed already."""


class AnyPiece(Protocol):
    """What whole-data steps and streams ask of a piece."""

    @property
    def columns(self) -> Mapping[str, npt.NDArray[Any]]:
        """Of the twins (`danlu.data.twins`), and the conveyor's own (`facts_of`)."""
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

    def marks(self, wanted: npt.NDArray[np.int64]) -> Sequence[tuple[Mark, ...]]:
        """Of the rows with these numbers, without opening their content."""
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

    def marks(self, wanted: npt.NDArray[np.int64]) -> Sequence[tuple[Mark, ...]]:
        return [self.kept[number].marks for number in wanted.tolist()]


def facts_of(rows: Sequence[Row]) -> dict[str, npt.NDArray[Any]]:
    """The conveyor's own columns: `alive` (a sample is there), `row_kind` and `row_level` (places in KINDS and LEVELS),
    `touched` (a stage left a mark), and where rows stand: `row_line`, `row_seat`, and `row_file` as a place in
    `row_files`."""
    num = len(rows)
    origins, samples = [row.origin for row in rows], [row.sample for row in rows]
    names = list(map(attrgetter("file"), origins))
    codes = {name: code for code, name in enumerate(dict.fromkeys(names))}
    return {
        "alive": np.array([sample is not None for sample in samples], bool),
        "row_kind": np.array([0 if sample is None else _CODES[sample.kind] for sample in samples], np.uint8),
        "row_level": _levels(samples),
        "touched": np.array([bool(row.marks) for row in rows], bool),
        "row_line": np.fromiter(map(attrgetter("line"), origins), np.int64, num),
        "row_seat": np.fromiter(map(attrgetter("seat"), rows), np.int64, num),
        "row_file": np.fromiter(map(codes.__getitem__, names), np.int32, num),
        "row_files": np.array(list(codes), dtype=np.str_) if codes else np.zeros(0, "<U1"),
    }


_CODES = {kind: code for code, kind in enumerate(KINDS)}


def _levels(samples: Sequence[Sample | None]) -> npt.NDArray[np.uint8]:
    """Most rows bear the very same tags: those are looked at once."""
    levels, known, rank = np.zeros(len(samples), np.uint8), None, 0
    for row, sample in enumerate(samples):
        if sample is not None:
            if sample.tags is not known:
                known, rank = sample.tags, _rank(sample)
            levels[row] = rank
    return levels


def _rank(sample: Sample) -> int:
    level = sample.tags.get("level")
    return LEVELS.index(level) if level in LEVELS else 0


def digest_of(pieces: Iterable[Piece]) -> str:
    """Of the ids of their rows, in order; a dropped row counts as an empty one."""
    digest = hashlib.sha256()
    for piece in pieces:
        for row in piece.kept:
            digest.update(row.id.encode() + b"\n")
    return digest.hexdigest()


def num_rows(pieces: Sequence[AnyPiece]) -> int:
    return sum(map(len, pieces))


def joined(pieces: Sequence[AnyPiece], name: str) -> npt.NDArray[Any]:
    """One column over all pieces."""
    parts = [np.asarray(piece.columns[name]) for piece in pieces]
    return np.concatenate(parts) if parts else np.zeros(0, bool)


@dataclass(frozen=True, slots=True)
class Places:
    """Where every row of all pieces stands."""

    files: tuple[str, ...]
    file: npt.NDArray[np.int32]
    line: npt.NDArray[np.int64]

    @classmethod
    def of(cls, pieces: Sequence[AnyPiece]) -> Places:
        codes: dict[str, int] = {}
        own: list[npt.NDArray[np.int32]] = []
        for piece in pieces:
            names = [codes.setdefault(name, len(codes)) for name in np.asarray(piece.columns["row_files"]).tolist()]
            own.append(np.array(names, np.int32)[np.asarray(piece.columns["row_file"])])
        joined_codes = np.concatenate(own) if own else np.zeros(0, np.int32)
        return cls(tuple(codes), joined_codes, joined(pieces, "row_line").astype(np.int64))

    def name(self, row: int) -> str:
        """`file:line`."""
        return f"{self.files[self.file[row]]}:{self.line[row]}"


def streamed(pieces: Sequence[AnyPiece], wanted: npt.NDArray[np.bool_]) -> Iterator[tuple[int, Row]]:
    """(number through all pieces, row) of the rows wanted, piece after piece: one piece is open at a time."""
    first = 0
    for piece in pieces:
        own = wanted[first : first + len(piece)]
        if own.any():
            for number, row in piece.rows(own):
                yield first + number, row
        first += len(piece)
