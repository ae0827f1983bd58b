"""Plain text and Markdown as documents: one passage a file, very long files in pieces that end at a blank line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath

from danlu.data.opening import Source
from danlu.data.sources.source import Change, Context, Fault, Item, Passage, changes_of

PIECE_CHARS = 4 << 20
MAX_LOST_RATIO = 0.05
"""A document that loses more of its lines than this is refused as a whole."""

_HEADING = re.compile(r"^#{1,3}\s+(.+?)\s*#*$")
_TITLE_TAG = re.compile(r"^<(?:篇名|title)>\s*(.+)$", re.IGNORECASE)


@dataclass(slots=True)
class _Piece:
    line: int = 1
    parts: list[str] = field(default_factory=list)
    chars: int = 0
    lost: list[int] = field(default_factory=list)
    lost_raw: str = ""
    changes: list[Change] = field(default_factory=list)

    def item(self, title: str) -> Item | None:
        text = "\n".join(self.parts).strip("\n")
        if self.lost and len(self.lost) > MAX_LOST_RATIO * (len(self.parts) + len(self.lost)):
            return Fault(self.lost[0], "undecodable", {}, self.lost_raw)
        if not text.strip():
            return None
        if self.lost:
            shown = ", ".join(map(str, self.lost[:5])) + (", ..." if len(self.lost) > 5 else "")
            self.changes.append(("lines_dropped", {"num": len(self.lost), "lines": shown}))
        return Passage(self.line, text, title, None, tuple(self.changes))


def read_text(source: Source, context: Context) -> Iterator[Item]:
    """The file's text. Lines that no encoding reads are dropped and told of; too many of them and the text is
    refused."""
    piece, title, found = _Piece(), "", False
    cut = None
    for line in source.lines():
        if line.fault == "cut":
            cut = Fault(line.number, "compressed_cut", {}, line.raw)
        elif line.text is None:
            piece.lost.append(line.number)
            piece.lost_raw = piece.lost_raw or line.raw
        else:
            if not found and (named := _HEADING.match(line.text) or _TITLE_TAG.match(line.text.strip())):
                title, found = named[1], True
            if line.legacy and not piece.changes:
                piece.changes.extend(changes_of(line))
            piece.parts.append(line.text)
            piece.chars += len(line.text) + 1
            if piece.chars > PIECE_CHARS and (not line.text.strip() or piece.chars > 2 * PIECE_CHARS):
                if item := piece.item(title):
                    yield item
                piece = _Piece(line.number + 1)
    item = piece.item(title or PurePath(source.name).stem)
    if item:
        yield item
    if cut:
        yield cut
