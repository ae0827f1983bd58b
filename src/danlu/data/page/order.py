"""Reading order of a page from where its pieces of text stand: columns, paragraphs, headings, tables without guessing
at meaning. Knows nothing of PDF; the reader gives segments, y grows downwards, units are points.

Columns are believed where a white gutter runs down between two stacks of lines that fill their width (short cells side
by side are a table instead). Lines become paragraphs again; a hyphen at a line's end goes where the whole word stands
elsewhere in the document or the next line goes on in lower case.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from danlu.data.page.grids import borders_at, table_at
from danlu.data.page.segments import CJK_EDGE, Bar, Row, Rule, Segment, joined, plain, rows_of

MIN_COLUMN_LINES = 4
MIN_FILLED_RATIO = 0.55
"""Median share of its column's width that a line fills, in running text."""
MAX_CROSSING_RATIO = 0.25
"""Lines that may run across a gutter (titles, wide tables), as a share of all."""
MIN_COLUMN_SIZES = 6
"""A column is at least so many times wider than its letters are high."""
MAX_CANDIDATES = 6
HEADING_RATIO = 1.15
MAX_HEADING_CHARS = 120

_ITEM = re.compile(
    r"(?:[•●▪◦‣·○■□–—\-*]|\(?[a-zA-Z0-9]{1,2}[.)、．]|[（(][一二三四五六七八九十\d]{1,3}[）)]|[一二三四五六七八九十]{1,3}、"
    r"|[①-⑳]|第[零〇一二三四五六七八九十百千\d]+[章节条款编])(?=\s|\S)"
)
_BULLET = re.compile(r"[•●▪◦‣·○■□]\s*")


@dataclass(frozen=True, slots=True)
class Style:
    """What a document's text looks like: found once over all pages."""

    heading_sizes: tuple[float, ...]
    """From the largest: heading 1, 2, ..."""
    words: frozenset[str]
    """All words that stand whole on a line, lower case."""


def find_style(pages: Iterable[Sequence[Segment]]) -> Style:
    """The size of most characters is the body's; larger sizes of short lines are headings."""
    chars: Counter[float] = Counter()
    short: Counter[float] = Counter()
    words: set[str] = set()
    for segments in pages:
        for segment in segments:
            size = _rounded(segment.size)
            chars[size] += len(segment.text)
            short[size] += len(segment.text) if len(segment.text) <= MAX_HEADING_CHARS else 0
            words.update(re.findall(r"[a-z]{3,}(?:-[a-z]+)*(?![\u00ada-z])", segment.text.lower()))
    body = max(chars, key=lambda size: (chars[size], -size), default=0.0)
    larger = [size for size in chars if size > body * HEADING_RATIO and chars[size] < 0.2 * chars[body]]
    return Style(tuple(sorted(larger, reverse=True)[:4]), frozenset(words))


def _rounded(size: float) -> float:
    return round(size * 2) / 2


def text_of_page(
    segments: Sequence[Segment], style: Style, rules: Sequence[Rule] = (), bars: Sequence[Bar] = ()
) -> str:
    """The page in reading order, in Markdown."""
    blocks: list[str] = []
    for region in _regions(list(segments)):
        rows = rows_of(region)
        for row in rows:
            row.borders = borders_at(row.middle, rules)
        blocks += _blocks(rows, style, bars)
    return "\n\n".join(block for block in blocks if block.strip())


# Columns


def _regions(segments: list[Segment], depth: int = 0) -> list[list[Segment]]:
    """The segments in runs that are read one after the other, each from top to bottom."""
    gutter = _gutter(segments) if depth < 3 and len(segments) >= 2 * MIN_COLUMN_LINES else None
    if gutter is None:
        return [segments] if segments else []
    crossing = sorted((s for s in segments if s.left < gutter < s.right), key=lambda segment: segment.middle)
    sides: list[tuple[list[Segment], list[Segment]]] = [([], []) for _ in range(len(crossing) + 1)]
    for segment in segments:
        if not segment.left < gutter < segment.right:
            band = sum(other.middle < segment.middle for other in crossing)
            sides[band][segment.left >= gutter].append(segment)
    found: list[list[Segment]] = []
    wide: list[Segment] = []
    for band, (left, right) in enumerate(sides):
        if left and right and (wide or found) and not (_is_stack(left) or _is_stack(right)):
            wide += [*left, *right]  # a line or two side by side between wide ones: rows, no columns
        elif left or right:
            found += [wide] if wide else []
            wide = []
            found += [*_regions(left, depth + 1), *_regions(right, depth + 1)]
        if band < len(crossing):
            wide.append(crossing[band])
    return [*found, wide] if wide else found


def _is_stack(segments: list[Segment]) -> bool:
    return len(rows_of(segments)) >= 2


def _gutter(segments: list[Segment], depth: int = 0) -> float | None:
    """Where a white strip parts two stacks of running text; the one that fewest lines cross, then the widest."""
    left, right = min(s.left for s in segments), max(s.right for s in segments)
    candidates: dict[tuple[int, float], float] = {}
    for step in range(20, 81):
        place = left + (right - left) * step / 100
        crossing = sum(s.left < place < s.right for s in segments)
        if crossing <= MAX_CROSSING_RATIO * len(segments):
            one = max((s.right for s in segments if s.right <= place), default=left)
            other = min((s.left for s in segments if s.left >= place), default=right)
            candidates.setdefault((crossing, one - other), place)
    best = sorted(candidates)[:MAX_CANDIDATES]
    return next((candidates[key] for key in best if _are_columns(segments, candidates[key], depth)), None)


def _are_columns(segments: list[Segment], place: float, depth: int) -> bool:
    sides = [[s for s in segments if s.right <= place], [s for s in segments if s.left >= place]]
    stacks = [rows_of(side) for side in sides]
    if min(map(len, stacks)) < MIN_COLUMN_LINES or min(map(len, stacks)) < 0.3 * max(map(len, stacks)):
        return False
    if not all(_is_running(side, rows, depth) for side, rows in zip(sides, stacks, strict=True)):
        return False
    upper, lower = max(rows[0].top for rows in stacks), min(rows[-1].bottom for rows in stacks)
    return lower - upper > 0.3 * min(rows[-1].bottom - rows[0].top for rows in stacks)


def _is_running(side: list[Segment], rows: list[Row], depth: int) -> bool:
    """Lines that fill their column's width, or several such columns."""
    start, end = min(row.left for row in rows), max(row.right for row in rows)
    filled = statistics.median(sum(s.right - s.left for s in row.segments) for row in rows)
    size = statistics.median(row.size for row in rows)
    if end > start and filled >= max(MIN_FILLED_RATIO * (end - start), MIN_COLUMN_SIZES * size):
        return True
    return depth < 2 and len(side) >= 2 * MIN_COLUMN_LINES and _gutter(side, depth + 1) is not None


# Blocks


def _blocks(rows: list[Row], style: Style, bars: Sequence[Bar]) -> list[str]:
    """Paragraphs, headings and tables of one region, top to bottom."""
    blocks: list[str] = []
    lines: list[Row] = []
    index = 0
    while index < len(rows):
        end, table = table_at(rows, index, bars)
        if table:
            blocks += [*_paragraphs(lines, style), table]
            lines, index = [], end
        else:
            lines.append(rows[index])
            index += 1
    return [*blocks, *_paragraphs(lines, style)]


# Paragraphs


def _paragraphs(rows: list[Row], style: Style) -> list[str]:
    """Lines joined to paragraphs; headings and list items stand for themselves. A line that ends early although the
    next word had room was ended on purpose: the break stays."""
    if not rows:
        return []
    start, end = min(row.left for row in rows), max(row.right for row in rows)
    pitch = _pitch(rows)
    blocks: list[str] = []
    level_before = 0
    in_item = False
    for number, row in enumerate(rows):
        text, level = row.text, _level(row, style)
        before = rows[number - 1] if number else None
        fresh = before is None or level != level_before or _is_new(before, row, start, pitch, in_item)
        had_room = before is not None and (before.right + _first_word(row) < end - row.size or _is_centred(before, row))
        if fresh or (had_room and level):
            in_item = bool(_ITEM.match(text))
            item = _BULLET.match(text)
            blocks.append(f"{'#' * level} {text}" if level else f"- {text[item.end() :]}" if item else text)
        elif had_room:
            blocks[-1] = f"{blocks[-1]}\n{text}"
        else:
            blocks[-1] = joined(blocks[-1], text, style.words)
        level_before = level
    return [plain(block) for block in blocks]


def _pitch(rows: list[Row]) -> float:
    """The usual distance from a line to the next."""
    steps = [after.top - before.top for before, after in itertools.pairwise(rows) if after.top > before.top]
    return statistics.median_low(steps) if steps else 0.0


def _first_word(row: Row) -> float:
    """Width of what would have had to fit into the line before: a word, or one Chinese character."""
    text = row.segments[0].text
    word = text[:1] if CJK_EDGE.match(text) else text.split(" ", 1)[0]
    return (row.segments[0].right - row.segments[0].left) * (len(word) + 1) / max(1, len(text))


def _is_centred(before: Row, row: Row) -> bool:
    """Two lines around one axis: centred lines are broken by hand."""
    shift = abs(before.left + before.right - row.left - row.right) / 2
    return shift < 0.5 * row.size and abs(before.left - row.left) > row.size


def _has_words(row: Row) -> bool:
    return any(map(str.isalnum, row.text))


def _is_new(before: Row, row: Row, start: float, pitch: float, in_item: bool) -> bool:
    """Whether a line begins a paragraph; inside a list's item (`in_item`) an indent goes on with it."""
    size = row.size
    if not (_has_words(before) and _has_words(row)):  # a line of dashes
        return True
    if abs(before.size - size) > 0.15 * size or _ITEM.match(row.text):
        return True
    if row.top - before.top > max(1.35 * pitch, 0.1) or row.top < before.top - size:
        return True
    return not in_item and row.left > start + 1.2 * size and row.left > before.left + 0.8 * size


def _level(row: Row, style: Style) -> int:
    size = _rounded(row.size)
    if size in style.heading_sizes and len(row.text) <= MAX_HEADING_CHARS and any(map(str.isalpha, row.text)):
        return style.heading_sizes.index(size) + 1
    return 0
