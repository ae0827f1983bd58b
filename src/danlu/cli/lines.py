"""Text for a terminal of so many cells: wrapped lines, and lists of names with a sentence each.

A Chinese character is two cells wide and may end a line anywhere; a Latin word may not be torn. Not rich: help has to
be there before rich is loaded, and rich tears a line before a full stop.
"""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import Sequence

_PIECE = re.compile(r"\s+|[（《【]*(?:[^\s\u2e80-\uffef]+|[\u2e80-\uffef])[，。；：、！？）》】…”]*")
"""What a line may end after: a word or one Chinese character, with the punctuation that must stay beside it."""

MOST_CELLS = 100


_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|\r(?!\n)")
"""Control characters but tab and line ends, and marks that turn the direction of what follows."""


def visible(text: str) -> str:
    """`text` with control characters spelt out: a file's name, or a model's answer, gives no commands to a terminal."""
    return _UNSEEN.sub(lambda found: repr(found.group())[1:-1], text)


def terminal_cells() -> int:
    """Cells that a line of text may take here: readable on a wide screen, whole on a narrow one."""
    return min(shutil.get_terminal_size().columns, MOST_CELLS)


def cells(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` cells; a word wider than that has a line of its own."""
    lines, line = [], ""
    for piece in _PIECE.findall(text):
        if line and cells(line) + cells(piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece if line else piece.lstrip()
    return [*lines, line.rstrip()]


def described(rows: Sequence[tuple[str, str]], width: int, *, indent: int = 2) -> str:
    """Names on the left, their sentences wrapped on the right; below the name where it is long."""
    beside = [cells(name) for name, _ in rows if cells(name) <= max(width * 3 // 8, 14)]
    margin = indent + max(beside, default=0) + 2
    lines = []
    for name, sentence in rows:
        told = wrapped(sentence, max(width - margin, 20))
        head = " " * indent + name
        if cells(head) + 2 > margin:
            lines.append(head)
        else:
            lines.append((head + " " * (margin - cells(head)) + told.pop(0)).rstrip())
        lines += [" " * margin + line for line in told if line]
    return "\n".join(lines)
