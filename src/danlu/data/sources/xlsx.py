"""Excel workbooks: a sheet whose columns look like training rows gives rows, any other becomes a Markdown table."""

from __future__ import annotations

import datetime
import itertools
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from danlu.core.errors import DataError
from danlu.data.opening import Source
from danlu.data.sources.source import Context, Fault, Item, Passage, Row
from danlu.data.tables import find_header, num_wordy, table_pieces

PEEKED_ROWS = 10
MAX_LOOKED_BYTES = 64 << 20
MAX_TOLD_CHARS = 200
MAX_CELLS = 20_000_000
"""Of one sheet, empty ones before a filled one included: a single cell at XFD1048576 in each row is a bomb."""
MAX_EMPTY_ROWS = 2_000_000

_UNCOMPUTED = re.compile(rb"</f>\s*(?:<v\s*/>|<v></v>|</c>)")
"""A workbook that a program wrote and nobody opened holds formulas without values."""


def read_xlsx(source: Source, context: Context) -> Iterator[Item]:
    """Sheets in order; `line` is the row number in the sheet and `place` the sheet's name."""
    try:
        import openpyxl  # lazy: only workbooks need the package
    except ImportError as error:
        raise DataError("data.missing_package", where=source.name, package="openpyxl", what="XLSX") from error
    with source.seekable() as file:
        num_pictures, num_formulas = _unread(file)
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        try:
            several = len(book.worksheets) > 1
            num_passages = 0
            for sheet in book.worksheets:
                for item in _sheet(sheet, str(sheet.title), str(sheet.title) if several else "", context):
                    num_passages += 1
                    yield item
            if num_pictures:
                context.note("note_pictures", num=num_pictures)
            if num_formulas:
                context.note("note_formulas", num=num_formulas)
            if not num_passages:
                yield Fault(0, "no_text", {})
        finally:
            book.close()


def _unread(file: Any) -> tuple[int, int]:
    """How many pictures there are, and how many formulas whose value was never computed."""
    num_pictures = num_formulas = 0
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            num_pictures += name.startswith("xl/media/")
            if name.startswith("xl/worksheets/") and name.endswith(".xml"):
                with archive.open(name) as part:
                    num_formulas += len(_UNCOMPUTED.findall(part.read(MAX_LOOKED_BYTES)))
    return num_pictures, num_formulas


def _sheet(sheet: Any, title: str, place: str, context: Context) -> Iterator[Item]:
    if not hasattr(sheet, "iter_rows"):  # a chart sheet
        return
    sheet.reset_dimensions()  # files of other makers state a wrong size; without one, rows end with their last cell
    faults: list[Fault] = []
    rows = _filled_rows(sheet, faults)
    first = list(itertools.islice(rows, PEEKED_ROWS))
    shown = [[_text(value) for value in values] for _, values in first]
    width = max(map(len, shown), default=0)
    header = find_header([row + [""] * (width - len(row)) for row in shown], [], context.fits, context.named)
    names = [cell.strip() for cell in shown[header]] if header is not None else []
    if header is None or not _are_rows(names, context):
        if header is not None and num_wordy(shown[header + 1 :]) >= 2:  # as questions and answers are
            context.note("note_table_document", columns=", ".join(filter(None, names))[:MAX_TOLD_CHARS])
        cells = ((number, list(map(_text, values))) for number, values in itertools.chain(first, rows))
        for line, table in table_pieces(cells):
            yield Passage(line, f"# {title}\n\n{table}", title, None, (), place)
    else:
        for number, values in itertools.chain(first[header + 1 :], rows):
            values += [None] * (len(names) - len(values))
            named = {name: _plain(value) for name, value in zip(names, values, strict=False) if name}
            raw = str({name: value for name, value in named.items() if value is not None})
            yield Row(number, named, raw, (), place)
    yield from (Fault(fault.line, fault.reason, fault.values, place=place) for fault in faults)


def _are_rows(names: list[str], context: Context) -> bool:
    return context.fits(dict.fromkeys(names, "x")) or bool(context.named and set(context.named) <= set(names))


def _filled_rows(sheet: Any, faults: list[Fault]) -> Iterator[tuple[int, list[Any]]]:
    """(row number, its cells) without empty rows; ends with a fault where the sheet is larger than anybody's table."""
    num_cells = num_empty = 0
    for number, values in enumerate(sheet.iter_rows(values_only=True), start=1):
        num_cells += len(values)
        if num_cells > MAX_CELLS or num_empty > MAX_EMPTY_ROWS:
            faults.append(Fault(number, "table_too_large", {"limit": MAX_CELLS}))
            return
        if any(value is not None and str(value).strip() for value in values):
            yield number, [*values]
        else:
            num_empty += 1


def _text(value: Any) -> str:
    plain = _plain(value)
    return "" if plain is None else str(plain)


def _plain(value: Any) -> Any:
    """Cells as people see them: 80.0 is 80, midnight is a date."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat(sep=" ") if isinstance(value, datetime.datetime) else value.isoformat()
    return value if isinstance(value, str | bool) or value is None else str(value)
