"""Running headers and footers: lines at a page's edge that stand at the same height on many pages.

Digits count as one (page numbers differ from page to page). Only lines that repeat without a break from the edge
inwards are taken, so that a table's head on every page, below the header, stays.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from danlu.data.page.segments import Row, Segment, rows_of

MAX_REPEATED_RATIO = 0.3
"""A line on more than this share of the pages is no content."""
MIN_PAGES = 3
EDGE_ROWS = 4
EDGE_RATIO = 0.12
"""Of a page's height, at the top and at the bottom."""
MAX_FURNITURE_CHARS = 200
HEIGHT_STEP = 8.0
"""Points that a repeated line may stand higher or lower."""

_DIGITS = re.compile(r"\d+")
_ROMAN = re.compile(r"\s*[ivxlc]+\s*")


@dataclass(frozen=True, slots=True)
class Furniture:
    """What was taken off one page: its lines, and on how many pages the rarest of them stands."""

    lines: tuple[str, ...]
    num_pages: int


def take_off(
    pages: Sequence[Sequence[Segment]], heights: Sequence[float]
) -> tuple[list[list[Segment]], list[Furniture | None]]:
    """The pages without their running headers and footers, and what each lost."""
    edges = [_edges(rows_of(segments), height) for segments, height in zip(pages, heights, strict=True)]
    count: Counter[tuple[str, str, int]] = Counter()
    for top, bottom in edges:
        keys = {near for side, rows in (("top", top), ("bottom", bottom)) for row in rows for near in _near(side, row)}
        count.update(keys)
    kept: list[list[Segment]] = []
    lost: list[Furniture | None] = []
    for segments, (top, bottom) in zip(pages, edges, strict=True):
        gone: list[Row] = []
        fewest = len(pages)
        for side, rows in (("top", top), ("bottom", bottom)):
            for row in rows:
                often = max(count[key] for key in _near(side, row))
                if len(pages) < MIN_PAGES or often < MIN_PAGES or often <= MAX_REPEATED_RATIO * len(pages):
                    break
                gone.append(row)
                fewest = min(fewest, often)
        if gone and len(gone) == len(rows_of(segments)) and sum(len(row.text) for row in gone) > MAX_FURNITURE_CHARS:
            gone = []  # pages that are all alike: a form, no furniture
        taken = {id(segment) for row in gone for segment in row.segments}
        kept.append([segment for segment in segments if id(segment) not in taken])
        lost.append(Furniture(tuple(row.text for row in gone), fewest) if gone else None)
    return kept, lost


def _edges(rows: list[Row], height: float) -> tuple[list[Row], list[Row]]:
    """Rows in the upper and the lower margin, each from the edge inwards."""
    top = [row for row in rows[:EDGE_ROWS] if row.bottom < EDGE_RATIO * height]
    bottom = [row for row in rows[-EDGE_ROWS:] if row.top > (1 - EDGE_RATIO) * height]
    return top, bottom[::-1]


def _near(side: str, row: Row) -> list[tuple[str, str, int]]:
    """Keys of a line: its text without digits, at this height and half a step beside it."""
    text = _DIGITS.sub("#", row.text.strip())
    text = "#" if _ROMAN.fullmatch(text) else text
    step = int(row.top // HEIGHT_STEP)
    other = step + (1 if row.top % HEIGHT_STEP >= HEIGHT_STEP / 2 else -1)
    return [(side, text, step), (side, text, other)]
