"""Which row of a table is its header, what to call columns that have none, and a table as Markdown.

Shared by the readers of CSV and XLSX. Not a dataframe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

MAX_LABEL_CHARS = 24
MAX_PIECE_ROWS = 5000
MAX_PIECE_CHARS = 4 << 20
_NUMBER = re.compile(r"^[\s\d.,:;/\\%+\-–¥$€()_]+$")


def find_header(
    candidates: Sequence[Sequence[str]],
    body: Sequence[Sequence[str]],
    fits: Callable[[dict[str, Any]], bool],
    named: Sequence[str] = (),
) -> int | None:
    """Index of the first candidate row that is a header: it holds named or known columns, or reads like names over
    values."""
    for index, cells in enumerate(candidates):
        names = [cell.strip().strip("\ufeff\"'") for cell in cells]
        if (named and set(named) <= set(names)) or fits(dict.fromkeys(names, "x")):
            return index
    for index, cells in enumerate(candidates):
        rest = [*candidates[index + 1 :], *body]
        if _reads_like_names([cell.strip() for cell in cells], rest):
            return index
    return None


def _reads_like_names(names: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Short, distinct, wordy cells over a body that is longer or numeric."""
    filled = [name for name in names if name]
    if (
        len(filled) < 2
        or len(set(filled)) < len(filled)
        or any(len(name) > 30 or _NUMBER.match(name) for name in filled)
    ):
        return False
    if not rest:
        return True
    cells = [cell for row in rest for cell in row if cell.strip()]
    if not cells:
        return True
    numeric = any(
        all(_NUMBER.match(row[i]) for row in rest if i < len(row) and row[i].strip()) for i in range(len(names))
    )
    longer = sum(map(len, cells)) / len(cells) > 1.5 * sum(map(len, filled)) / len(filled)
    return numeric or longer or any("_" in name for name in filled)


def headless_names(rows: Sequence[Sequence[str]]) -> list[str]:
    """Names for a table without a header, by what its columns hold: a text; a text and a label; a question and an
    answer. Columns that play no part are `column 3`."""
    width = max((len(row) for row in rows), key=[len(row) for row in rows].count, default=0)
    columns = [[row[i].strip() for row in rows if len(row) == width] for i in range(width)]
    wordy = [i for i, cells in enumerate(columns) if _is_wordy(cells)]
    names = [f"column {i + 1}" for i in range(width)]
    if len(wordy) >= 2:
        names[wordy[0]], names[wordy[1]] = "question", "answer"
    elif len(wordy) == 1:
        names[wordy[0]] = "text"
        labels = [i for i in range(width) if i != wordy[0] and _is_label(columns[i])]
        if labels:
            names[labels[0]] = "label"
    return names


def num_wordy(rows: Sequence[Sequence[str]]) -> int:
    """How many columns hold words rather than numbers, dates or codes."""
    width = max(map(len, rows), default=0)
    return sum(_is_wordy([row[i].strip() for row in rows if i < len(row)]) for i in range(width))


def _is_wordy(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell]
    if not filled or any(len(cell) > 200 for cell in filled):
        return bool(filled)
    words = [cell for cell in filled if not _NUMBER.match(cell)]
    return len(words) > len(filled) * 0.6 and sum(map(len, words)) / len(words) >= 6


def _is_label(cells: Sequence[str]) -> bool:
    distinct = set(cells)
    return (
        len(cells) >= 4
        and 1 < len(distinct) <= max(2, len(cells) // 4)
        and all(len(cell) <= MAX_LABEL_CHARS for cell in distinct)
    )


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first row as its head; bars and line breaks inside cells are escaped."""
    width = max((len(row) for row in rows), default=0)
    if not width:
        return ""
    shown = [[_cell(cell) for cell in [*row, *[""] * (width - len(row))]] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in shown]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])


def table_pieces(rows: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[int, str]]:
    """A table of any length as Markdown: (line of its first row, text) in pieces that each begin with the head.

    Rows of a single cell above the head are a title, and stand before the table as text.
    """
    source = iter(rows)
    piece, head, lead = _piece(source), None, ""
    while piece:
        cells = [row for _, row in piece]
        if head is None:
            num_lead = next((n for n, row in enumerate(cells) if sum(map(bool, map(str.strip, row))) > 1), 0)
            lead = "\n\n".join(" ".join(filter(None, map(str.strip, row))) for row in cells[:num_lead])
            cells = cells[num_lead:]
            head = cells[0]
        else:
            cells, lead = [head, *cells], ""
        yield piece[0][0], "\n\n".join(part for part in (lead, markdown_table(_without_empty_columns(cells))) if part)
        piece = _piece(source)


def _piece(source: Iterator[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """The next rows, as many as make one document."""
    piece: list[tuple[int, list[str]]] = []
    num_chars = 0
    for row in source:
        piece.append(row)
        num_chars += sum(map(len, row[1]))
        if len(piece) >= MAX_PIECE_ROWS or num_chars > MAX_PIECE_CHARS:
            break
    return piece


def _without_empty_columns(table: list[list[str]]) -> list[list[str]]:
    width = max(map(len, table))
    full = [row + [""] * (width - len(row)) for row in table]
    used = [index for index in range(width) if any(row[index].strip() for row in full)]
    return [[row[index] for index in used] for row in full]


def _cell(cell: str) -> str:
    return cell.strip().replace("|", "\\|").replace("\r", "").replace("\n", "<br>")


def is_delimited(lines: Sequence[str]) -> bool:
    """Do these lines look like records of one width? For files whose suffix says nothing."""
    lines = [line for line in lines if line.strip()]
    if len(lines) < 3:
        return False
    for delimiter in ("\t", ",", ";", "|"):
        counts = [line.count(delimiter) for line in lines]
        if counts[0] > 0 and counts.count(counts[0]) >= 0.9 * len(counts):
            return True
    return False
