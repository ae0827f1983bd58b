"""Word documents: paragraphs, lists and tables in the order of the page, headings as Markdown. No images, no
comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from danlu.core.errors import DataError
from danlu.data.opening import Source
from danlu.data.sources.source import Context, Fault, Item, Passage
from danlu.data.tables import markdown_table

_HEADING = re.compile(r"^(?:heading|标题)\s*(\d)$", re.IGNORECASE)


def read_docx(source: Source, context: Context) -> Iterator[Item]:
    """One passage a document."""
    try:
        import docx  # lazy: only Word documents need the package
        from docx.table import Table
    except ImportError as error:
        raise DataError("data.missing_package", where=source.name, package="python-docx", what="DOCX") from error
    with source.seekable() as file:
        document = docx.Document(file)
    blocks = [
        _table(block) if isinstance(block, Table) else _paragraph(block) for block in document.iter_inner_content()
    ]
    text = re.sub(r"\n{3,}", "\n\n", "\n\n".join(block for block in blocks if block.strip()))
    if not text.strip():
        yield Fault(0, "no_text", {})
        return
    yield Passage(1, text, str(document.core_properties.title or "") or PurePath(source.name).stem)


def _paragraph(paragraph: Any) -> str:
    text = str(paragraph.text).strip("\n")
    style = str(paragraph.style.name or "") if paragraph.style is not None else ""
    if not text.strip():
        return ""
    if style.lower() in ("title", "标题"):
        return f"# {text.strip()}"
    if level := _HEADING.match(style):
        return f"{'#' * min(int(level[1]), 6)} {text.strip()}"
    if style.lower().startswith("list"):
        return f"- {text}"
    return text


def _table(table: Any) -> str:
    """A merged cell is told once: python-docx repeats it in each place that it covers."""
    rows = []
    for row in table.rows:
        cells, last = [], None
        for cell in row.cells:
            cells.append("" if cell._tc is last else str(cell.text))
            last = cell._tc
        rows.append(cells)
    return markdown_table(rows)
