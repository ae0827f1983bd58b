"""Comma, tab, semicolon or bar separated tables: delimiter and header are sniffed, faults stay on their own line.

Where neither the columns nor the user say that the rows are training rows, the table is a document, and a note says so.

Quotes follow RFC 4180. Its usual accident, a quote that is never closed, would swallow the rest of the file: a record
that runs over lines and then meets a quote that is not doubled is given up, its first line refused, and reading goes
on behind it. Tab-separated files take quotes literally unless a cell is cleanly wrapped in them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath

from danlu.data.opening import Line, Source
from danlu.data.sources.source import Change, Context, Fault, Item, Passage, Row, changes_of, fault_of
from danlu.data.tables import find_header, headless_names, table_pieces

DELIMITERS = ",\t;|"
PEEKED_RECORDS = 50
MAX_RECORD_LINES = 1000
MAX_RECORD_CHARS = 4 << 20

_NUMBER = re.compile(r"\d\"$")


@dataclass(slots=True)
class Record:
    """One record: its cells, the first line it stands on, the text it was cut from."""

    line: int
    cells: list[str]
    raw: str
    changes: tuple[Change, ...] = ()


@dataclass(slots=True)
class _Lines:
    """Lines that can be put back."""

    source: Iterator[Line]
    waiting: list[Line] = field(default_factory=list)

    def next(self) -> Line | None:
        return self.waiting.pop(0) if self.waiting else next(self.source, None)

    def put_back(self, lines: list[Line]) -> None:
        self.waiting[:0] = lines


def read_csv(source: Source, context: Context) -> Iterator[Item]:
    """Rows of a delimited file, columns named by its header or, without one, `column 1`, `column 2`, ...; or the table
    as Markdown."""
    lines = source.lines()
    peeked = list(itertools.islice(lines, PEEKED_RECORDS))
    delimiter = sniff_delimiter([line.text for line in peeked if line.text], source.suffix)
    items = _records(_Lines(itertools.chain(peeked, lines)), delimiter)
    first = list(itertools.islice(items, PEEKED_RECORDS))
    tables = [item.cells for item in first if isinstance(item, Record)]
    has_header = find_header(tables[:1], tables[1:], context.fits, context.named) == 0
    names = headless_names(tables) if not has_header else None
    told = names or next((_clean_header(cells) for cells in tables), [])
    if told and not context.wants_rows and not context.fits(dict.fromkeys(told, "x")):
        context.note("note_table_document", columns=", ".join(told)[:200])
        yield from _document(itertools.chain(first, items), PurePath(source.name).stem)
        return
    if names:
        context.note("note_no_header", columns=", ".join(names))
    for item in itertools.chain(first, items):
        if isinstance(item, Fault):
            yield item
        elif names is None:
            names = _clean_header(item.cells)
        else:
            yield _row(item, names, delimiter)


def _document(items: Iterator[Record | Fault], title: str) -> Iterator[Item]:
    """A table that is no training rows, as Markdown. What a record lost or was decoded from is told of its piece."""
    faults: list[Fault] = []
    changes: dict[str, Change] = {}

    def rows() -> Iterator[tuple[int, list[str]]]:
        for item in items:
            if isinstance(item, Fault):
                faults.append(item)
            else:
                changes.update((reason, (reason, values)) for reason, values in item.changes)
                yield item.line, item.cells

    for line, table in table_pieces(rows()):
        yield Passage(line, table, title, None, tuple(changes.values()))
        changes.clear()
        yield from faults
        faults.clear()
    yield from faults


def _clean_header(cells: list[str]) -> list[str]:
    """Column names; empty ones are numbered, stray quotes and marks taken off, doubles told apart."""
    names: list[str] = []
    for number, cell in enumerate(cells, start=1):
        name = cell.strip().strip("\ufeff\"'").strip() or f"column {number}"
        names.append(name if name not in names else f"{name} {number}")
    while len(names) > 1 and names[-1] == f"column {len(names)}":
        names.pop()
    return names


def _row(record: Record, names: list[str], delimiter: str) -> Item:
    cells = record.cells
    while len(cells) > len(names) and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) != len(names):
        values = {"expected": len(names), "found": len(cells), "delimiter": delimiter.replace("\t", "TAB")}
        return Fault(record.line, "ragged_row", values, record.raw)
    return Row(record.line, dict(zip(names, cells, strict=True)), record.raw, record.changes)


def sniff_delimiter(lines: list[str], suffix: str) -> str:
    """The delimiter that divides most lines into the same number (> 1) of cells."""
    lines = [line for line in lines if line.strip()]

    def score(delimiter: str) -> tuple[float, int]:
        counts = [len(split_line(line, delimiter)) for line in lines]
        common = max(set(counts), key=counts.count) if counts else 1
        return (counts.count(common) / len(counts) if common > 1 else 0.0, common)

    preferred = "\t" if suffix in (".tsv", ".tab") else ","
    return max(
        DELIMITERS, key=lambda delimiter: (score(delimiter)[0] + 0.2 * (delimiter == preferred), score(delimiter)[1])
    )


def split_line(line: str, delimiter: str) -> list[str]:
    """Cells of one line, for sniffing; an open quote takes the rest."""
    return _split(line, delimiter)[0]


def _records(lines: _Lines, delimiter: str) -> Iterator[Record | Fault]:
    while (line := lines.next()) is not None:
        fault = fault_of(line)
        if fault:
            yield fault
            continue
        assert line.text is not None, "a line without text has a fault"
        if not line.text.strip().strip("\ufeff"):
            continue
        text = line.text.removeprefix("\ufeff")
        if delimiter == "\t":
            yield Record(line.number, [_unwrapped(cell) for cell in text.split("\t")], text, changes_of(line))
        else:
            yield _record(line, text, lines, delimiter)


def _unwrapped(cell: str) -> str:
    inner = cell[1:-1]
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell


def _record(line: Line, text: str, lines: _Lines, delimiter: str) -> Record | Fault:
    """The record that begins on `line`, over as many lines as its quotes ask for; lines of a lost one are put back."""
    taken: list[Line] = []
    changes = changes_of(line)
    cells, is_open, stray = _split(text, delimiter)
    while is_open:
        more = lines.next()
        if more is not None:
            taken.append(more)
        if more is None or more.text is None or len(taken) > MAX_RECORD_LINES or len(text) > MAX_RECORD_CHARS:
            lines.put_back(taken)
            return Fault(line.number, "unbalanced_quote", {}, line.text or "")
        text = f"{text}\n{more.text}"
        if '"' in more.text:
            cells, is_open, stray = _split(text, delimiter)
            if stray:  # over several lines a lone quote means that the first was never closed
                lines.put_back(taken)
                return Fault(line.number, "unbalanced_quote", {}, line.text or "")
    cells, trimmed = _without_stray(cells)
    if stray or trimmed:
        changes = (*changes, ("stray_quote", {}))
    return Record(line.number, cells, text, changes)


def _split(text: str, delimiter: str) -> tuple[list[str], bool, bool]:
    """(cells, an open quote is left, a quote inside a quoted cell was not doubled)."""
    cells: list[str] = []
    position, stray = 0, False
    while True:
        if text.startswith('"', position):
            cell, position, closed, lone = _quoted(text, position + 1, delimiter)
            cells.append(cell)
            stray = stray or lone
            if not closed:
                return cells, True, stray
        else:
            end = text.find(delimiter, position)
            end = len(text) if end < 0 else end
            cells.append(_Plain(text[position:end]))
            position = end
        if position >= len(text):
            return cells, False, stray
        position += 1  # the delimiter


class _Plain(str):
    """A cell that stood without quotes, where a quotation mark is a stray."""

    __slots__ = ()


def _quoted(text: str, position: int, delimiter: str) -> tuple[str, int, bool, bool]:
    """A quoted cell from behind its opening quote: (cell, position behind it, closed, held a lone quote)."""
    parts: list[str] = []
    lone = False
    while True:
        end = text.find('"', position)
        if end < 0:
            return "".join(parts) + text[position:], len(text), False, lone
        parts.append(text[position:end])
        following = text[end + 1 : end + 2]
        if following == '"':
            parts.append('"')
            position = end + 2
        elif following in ("", delimiter):
            return "".join(parts), end + 1, True, lone
        else:
            lone = True
            parts.append('"')
            position = end + 1


def _without_stray(cells: list[str]) -> tuple[list[str], bool]:
    """An unquoted cell that ends in a lone quote loses it, unless it may mean inches (27")."""
    out = [
        cell[:-1]
        if isinstance(cell, _Plain) and cell.endswith('"') and cell.count('"') == 1 and not _NUMBER.search(cell)
        else cell
        for cell in cells
    ]
    return [str(cell) for cell in out], any(new is not old for new, old in zip(out, cells, strict=True))
