"""Tables of a page, as Markdown: between ruled lines, or without lines where cells stand one below the other."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence

from danlu.data.page.segments import Bar, Row, Rule, joined, plain
from danlu.data.tables import markdown_table

BORDER_TOLERANCE = 3.0
"""Points."""
MIN_DRAWN_RATIO = 0.2
"""Share of a table's width; less than this is an underline. Merged cells leave gaps in the line between two rows."""

_MARKER = re.compile(
    r"[(（]?(?:[\d.]{1,8}|[a-zA-Z]|[ivxIVX]{1,4}|[一二三四五六七八九十]{1,3})[)）.、]?|[•●▪◦‣·○■□–—\-*]"
)


def table_at(rows: list[Row], start: int, bars: Sequence[Bar] = ()) -> tuple[int, str]:
    """A table that begins in this row, as Markdown, and the index behind its last row; "" where none does."""
    end, borders = _ruled_end(rows, start)
    if end - start >= 2 and _is_grid(rows[start:end], borders):
        return end, _table(rows[start:end], _between(borders), _between_bars(rows[start:end], borders, bars))
    end = _aligned_end(rows, start)
    return (end, _aligned_table(rows[start:end])) if end - start >= 2 else (start, "")


def borders_at(y: float, rules: Sequence[Rule]) -> tuple[float, ...]:
    """Places of the ruled lines at this height; lines drawn twice, a hair apart, count once."""
    places: list[float] = []
    for x in sorted(rule.x for rule in rules if rule.is_beside(y)):
        if not places or x - places[-1] > BORDER_TOLERANCE:
            places.append(x)
    return tuple(places)


def _ruled_end(rows: list[Row], start: int) -> tuple[int, tuple[float, ...]]:
    """Index behind the last row between the same ruled lines, and those lines; merged cells lack some of them."""
    union = rows[start].borders
    end = start
    while end < len(rows) and len(rows[end].borders) >= 2:
        more = rows[end].borders
        if not (_is_part(more, union) or _is_part(union, more)):
            break
        union = max(union, more, key=len)
        end += 1
    return (end, union) if len(union) >= 3 else (start, ())


def _is_grid(rows: list[Row], borders: Sequence[float]) -> bool:
    """Whether these lines part cells: nothing runs across them, few cells hold two pieces, several columns are used.
    Frames of pages and coloured bars do not."""
    columns = _between(borders)
    crowded = 0
    used: set[int] = set()
    for row in rows:
        held: Counter[int] = Counter()
        for segment in row.segments:
            within = [
                n for n, (left, right) in enumerate(columns) if left - 1 <= segment.left and segment.right <= right + 1
            ]
            if not within:
                return False
            held[within[0]] += 1
        used.update(held)
        crowded += any(num > 1 for num in held.values())
    return len(used) > 1 and crowded <= 0.2 * len(rows)


def _is_part(some: Sequence[float], all_: Sequence[float]) -> bool:
    return all(any(abs(one - other) <= BORDER_TOLERANCE for other in all_) for one in some)


def _between(borders: Sequence[float]) -> list[tuple[float, float]]:
    """Columns between neighbouring lines; what stands outside the outer ones belongs to the outer columns."""
    inner = borders[1:-1]
    return list(zip([float("-inf"), *inner], [*inner, float("inf")], strict=True))


def _aligned_end(rows: list[Row], start: int) -> int:
    """Index behind the last row of a table that begins here: rows of several cells, close to each other; one row of a
    single cell in between (a wrapped cell, a subtitle) does not end it."""
    end = start
    while end < len(rows):
        if end > start and rows[end].top - rows[end - 1].bottom > 2.0 * rows[end].size:
            break
        if len(rows[end].segments) < 2 and (end == start or end + 1 >= len(rows) or len(rows[end + 1].segments) < 2):
            break
        end += 1
    return end


def _aligned_table(rows: list[Row]) -> str:
    """A table without lines: cells one below the other, white strips between the columns."""
    columns: list[list[float]] = []
    most = max(len(row.segments) for row in rows)
    telling = [row for row in rows if len(row.segments) >= max(2, 0.75 * most)]  # others may have merged cells
    for left, right in sorted((s.left, s.right) for row in telling for s in row.segments):
        if columns and left < columns[-1][1]:
            columns[-1][1] = max(columns[-1][1], right)
        else:
            columns.append([left, right])
    full = [row for row in rows if len(row.segments) > 1]
    if len(columns) < 2 or len(full) < 2 or len(full) < 0.6 * len(rows) or (len(columns) == 2 and len(full) < 3):
        return ""
    markers = sum(bool(_MARKER.fullmatch(row.segments[0].text)) for row in full)
    if markers > 0.5 * len(full) and any(len(row.segments[-1].text) > 30 for row in full):
        return ""  # numbers that hang out beside their paragraphs are no table
    return _table(rows, [(left, right) for left, right in columns])


def _between_bars(rows: list[Row], borders: Sequence[float], bars: Sequence[Bar]) -> list[bool]:
    """For each row, whether it goes on in the cells above it: no line is drawn between the two. Where nothing is drawn
    between any rows, every row is one of its own."""
    width = borders[-1] - borders[0]
    goes_on = [False]
    for above, row in itertools.pairwise(rows):
        drawn = sum(
            max(0.0, min(bar.right, borders[-1]) - max(bar.left, borders[0]))
            for bar in bars
            if above.middle < bar.y < row.middle
        )
        goes_on.append(drawn < MIN_DRAWN_RATIO * width)
    return goes_on if not all(goes_on[1:]) else [False] * len(rows)


def _table(rows: list[Row], columns: Sequence[tuple[float, float]], goes_on: Sequence[bool] = ()) -> str:
    """Rows as Markdown, "" when only one column holds anything. `goes_on` tells which rows continue the one above;
    where it is not known, rows without a first cell, close below another, do."""
    cells: list[list[str]] = []
    for number, row in enumerate(rows):
        line = [""] * len(columns)
        for segment in row.segments:
            place = max(
                range(len(columns)),
                key=lambda c: (min(segment.right, columns[c][1]) - max(segment.left, columns[c][0]), -c),
            )
            line[place] = joined(line[place], segment.text) if line[place] else segment.text
        close = number > 0 and row.top - rows[number - 1].bottom < 0.3 * row.size
        if goes_on[number] if goes_on else close and not line[0] and len(row.segments) == 1:
            cells[-1] = [
                joined(one, two) if one and two else one or two for one, two in zip(cells[-1], line, strict=True)
            ]
        else:
            cells.append(line)
    used = [index for index in range(len(columns)) if any(line[index] for line in cells)]
    return markdown_table([[plain(line[index]) for index in used] for line in cells]) if len(used) > 1 else ""
