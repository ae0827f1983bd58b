"""The contract of this shelf: a reader turns one opened file into rows, passages of text, files inside it, and faults.

A reader is a function `(source, context) -> Iterator[Row | Passage | Fault]`, registered by name in
`sources/__init__.py`. It knows nothing of Alpaca or ShareGPT: columns become samples on the shelf `formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from danlu.data.enclosed import Room
from danlu.data.ocr.recogniser import Recogniser
from danlu.data.opening import Line, Source

Change: TypeAlias = tuple[str, dict[str, Any]]
"""(reason in the room `ledger`, its values)."""
Shape: TypeAlias = tuple[tuple[str, ...], tuple[type, ...]]
"""Names of the columns, types of the values."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record. `values` is whatever the file held: a mapping of columns, or something that is no row at all."""

    line: int
    values: Any
    raw: str = ""
    changes: tuple[Change, ...] = ()
    place: str = ""
    """A part of the file with line numbers of its own: a sheet."""
    clean: bool = False
    """Known to hold nothing that has to be mended."""


@dataclass(slots=True)
class Rows:
    """Records of the same columns, in the same order and with values of the same types, of which each stands on a line
    of its own and was read without a change; whether anything in them has to be mended is not known."""

    shape: Shape
    lines: list[int] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)
    raws: list[bytes | str] = field(default_factory=list)

    def add(self, line: int, values: dict[str, Any], raw: bytes | str) -> None:
        self.lines.append(line)
        self.values.append(values)
        self.raws.append(raw)

    def row(self, at: int) -> Row:
        """One of them as a record of its own."""
        raw = self.raws[at]
        text = raw if isinstance(raw, str) else raw.decode().strip().strip("\ufeff")
        return Row(self.lines[at], self.values[at], text)


@dataclass(frozen=True, slots=True)
class Passage:
    """Running text: a whole document, or one page of it (`page` from 1).

    A file's text is its passages in this order, a blank line between them; character ranges count in that text.
    """

    line: int
    text: str
    title: str = ""
    page: int | None = None
    changes: tuple[Change, ...] = ()
    place: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was there and cannot be read; line 0 means the file as a whole."""

    line: int
    reason: str
    values: dict[str, Any] = field(default_factory=dict)
    raw: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Enclosed:
    """A whole file inside this one: an archive's member, an attachment. `path` lies there until the next item."""

    name: str
    path: Path
    line: int = 0


Item: TypeAlias = Row | Rows | Passage | Fault | Enclosed


@dataclass(slots=True)
class Context:
    """What a reader may ask of the one who called it, and what it may tell."""

    fits: Callable[[dict[str, Any]], bool]
    """Do these columns look like training rows (question and answer, text and label, ...)?"""
    note: Callable[..., None]
    """`note(reason, **values)`: a sentence about the file for the ledger."""
    named: tuple[str, ...] = ()
    """Columns the user named: a header row must hold them."""
    wants_rows: bool = False
    """The user said what the rows are, by format or columns: a table is never taken as a document."""
    recogniser: Recogniser | None = None
    """Reads pages that have no usable text layer; None: each of them is refused by name."""
    room: Room = field(default_factory=Room)
    """How much may still be unpacked out of this file."""


class Reader(Protocol):
    def __call__(self, source: Source, context: Context) -> Iterator[Item]: ...


def fault_of(line: Line) -> Fault | None:
    """The fault of a physical line that has no text, or None."""
    if line.fault == "cut":
        return Fault(line.number, "compressed_cut", {}, line.raw)
    if line.fault == "long":
        return Fault(line.number, "line_too_long", {}, line.raw)
    return Fault(line.number, "undecodable", {}, line.raw) if line.text is None else None


def changes_of(line: Line) -> tuple[Change, ...]:
    """What decoding did to a line."""
    return (("decoded_as", {"encoding": line.legacy}),) if line.legacy else ()
