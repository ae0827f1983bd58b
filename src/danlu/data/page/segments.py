"""What stands on a page: runs of text with their boxes, rows of them, ruled lines. Points, y grows downwards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

SOFT_HYPHEN = "\u00ad"
"""At the end of a segment: the reader found a hyphen where the line breaks."""
_CJK = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\u3000-\u303f"
CJK_EDGE = re.compile(f"[{_CJK}]")


@dataclass(slots=True)
class Segment:
    """Text on one line without a wide gap. `size` is the height of its font's box."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    size: float

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


@dataclass(frozen=True, slots=True)
class Rule:
    """A vertical line drawn on the page: the border of a table's cells."""

    x: float
    top: float
    bottom: float

    def is_beside(self, y: float) -> bool:
        return self.top - 1 <= y <= self.bottom + 1


@dataclass(frozen=True, slots=True)
class Bar:
    """A horizontal line drawn on the page: between the rows of a table."""

    y: float
    left: float
    right: float


@dataclass(slots=True)
class Row:
    """Segments side by side, from left to right."""

    segments: list[Segment] = field(default_factory=list)
    borders: tuple[float, ...] = ()
    """Where ruled lines stand beside this row, from left to right."""

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)

    @property
    def middle(self) -> float:
        return self.segments[0].middle

    @property
    def left(self) -> float:
        return self.segments[0].left

    @property
    def right(self) -> float:
        return max(segment.right for segment in self.segments)

    @property
    def top(self) -> float:
        return min(segment.top for segment in self.segments)

    @property
    def bottom(self) -> float:
        return max(segment.bottom for segment in self.segments)

    @property
    def size(self) -> float:
        """Of most of its characters."""
        sizes: Counter[float] = Counter()
        for segment in self.segments:
            sizes[segment.size] += len(segment.text)
        return sizes.most_common(1)[0][0]


def rows_of(segments: Iterable[Segment]) -> list[Row]:
    """Rows from top to bottom; segments of one row overlap in height by more than half."""
    rows: list[Row] = []
    for segment in sorted(segments, key=lambda segment: (segment.middle, segment.left)):
        last = rows[-1] if rows else None
        if last and abs(segment.middle - last.segments[0].middle) < 0.5 * min(segment.size, last.segments[0].size):
            last.segments.append(segment)
        else:
            rows.append(Row([segment]))
    for row in rows:
        row.segments.sort(key=lambda segment: segment.left)
    return rows


def plain(text: str) -> str:
    """Hyphens of line ends as hyphens."""
    return text.replace(SOFT_HYPHEN, "-")


def joined(text: str, line: str, words: frozenset[str] = frozenset()) -> str:
    """A paragraph so far and its next line: no space between Chinese characters, hyphens of line ends resolved."""
    if text.endswith(SOFT_HYPHEN):
        head, tail = re.search(r"[A-Za-z-]*$", text[:-1]), re.match(r"[A-Za-z]*", line)
        one, other = (head[0] if head else "").lower(), (tail[0] if tail else "").lower()
        if one + other not in words and (f"{one}-{other}" in words or {one, other} <= words):
            return f"{text[:-1]}-{line}"
        return f"{text[:-1]}{line}" if line[:1].islower() else f"{text[:-1]}-{line}"
    if CJK_EDGE.match(text[-1:]) and CJK_EDGE.match(line[:1]):
        return f"{text}{line}"
    return f"{text} {line}"
