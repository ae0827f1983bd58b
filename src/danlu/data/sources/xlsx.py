"""Excel workbooks: a sheet whose columns look like training rows gives rows, any other becomes a Markdown table."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator
from typing import Any

from danlu.core.errors import DataError
from danlu.data.opening import Source
from danlu.data.sources.source import Context, Item, Passage, Row
from danlu.data.tables import find_header, markdown_table

PEEKED_ROWS = 10
MAX_DOCUMENT_ROWS = 5000


def read_xlsx(source: Source, context: Context) -> Iterator[Item]:
    """Sheets in order; `line` is the row number in the sheet and `place` the sheet's name."""
    try:
        import openpyxl  # lazy: only workbooks need the package
    except ImportError as error:
        raise DataError("data.missing_package", where=source.name, package="openpyxl", what="XLSX") from error
    with source.seekable() as file:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        try:
            several = len(book.worksheets) > 1
            for sheet in book.worksheets:
                yield from _sheet(sheet, str(sheet.title), str(sheet.title) if several else "", context)
        finally:
            book.close()


def _sheet(sheet: Any, title: str, place: str, context: Context) -> Iterator[Item]:
    if not hasattr(sheet, "iter_rows"):  # a chart sheet
        return
    if sheet.max_row is None or sheet.max_row == 1:
        sheet.reset_dimensions()  # files of other makers state a wrong size
    rows = ((number, [*values]) for number, values in enumerate(sheet.iter_rows(values_only=True), start=1))
    filled = ((number, values) for number, values in rows if any(_text(value).strip() for value in values))
    first = list(itertools.islice(filled, PEEKED_ROWS))
    if not first:
        return
    shown = [[_text(value) for value in values] for _, values in first]
    header = find_header(shown, [], context.fits, context.named)
    names = [cell.strip() for cell in shown[header]] if header is not None else []
    if header is None or not (
        context.fits(dict.fromkeys(names, "x")) or (context.named and set(context.named) <= set(names))
    ):
        rest = ([_text(value) for value in values] for _, values in itertools.chain(first, filled))
        while table := list(itertools.islice(rest, MAX_DOCUMENT_ROWS)):
            yield Passage(1, f"# {title}\n\n{markdown_table(_trimmed(table))}", title, None, (), place)
        return
    for number, values in itertools.chain(first[header + 1 :], filled):
        cells = {name: _plain(value) for name, value in zip(names, values, strict=False) if name}
        yield Row(number, cells, str({name: value for name, value in cells.items() if value is not None}), (), place)


def _trimmed(table: list[list[str]]) -> list[list[str]]:
    """Columns that are empty in every row taken out at the right edge."""
    width = max((index + 1 for row in table for index, cell in enumerate(row) if cell.strip()), default=0)
    return [row[:width] for row in table]


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
