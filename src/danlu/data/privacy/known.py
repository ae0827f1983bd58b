"""People known by name, from a list of staff or customers: found wherever they stand, without a cue.

They are found by their first two characters, then by whole names of falling length: a walk over a text asks one small
table at each place and no more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from danlu.core.errors import DataError
from danlu.data.privacy.finding import Finding


class KnownNames:
    """A recognizer of exactly these names, two characters at least; letters of a longer word do not count."""

    name = "known_names"
    version = 1
    kinds = ("name",)

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(sorted({name for name in names if len(name) > 1}))
        self._by_start: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self.names, key=len, reverse=True):
            self._by_start[name[:2]].append(name)

    def read(self, texts: Sequence[str]) -> list[list[Finding]]:
        return [self._read(text) for text in texts]

    def _read(self, text: str) -> list[Finding]:
        found: list[Finding] = []
        starts = self._by_start
        end = 0
        for at in range(len(text) - 1):
            if text[at : at + 2] not in starts or at < end:
                continue
            for name in starts[text[at : at + 2]]:
                if text.startswith(name, at) and not _is_inside(text, at, at + len(name)):
                    end = at + len(name)
                    found.append(Finding(at, end, "name", 0.9, self.name, name))
                    break
        return found


def _is_inside(text: str, start: int, end: int) -> bool:
    """Whether a name in Latin letters is part of a longer word."""
    before, behind = text[start - 1 : start], text[end : end + 1]
    return (text[start].isascii() and before.isascii() and before.isalnum()) or (
        text[end - 1].isascii() and behind.isascii() and behind.isalnum()
    )


def load_names(path: Path) -> list[str]:
    """Known people from a text file: one name a line, blank lines and # comments aside."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("privacy.names_unreadable", where="data.privacy.names", given=str(path)) from error
    named = (line.strip() for line in lines)
    return [line for line in named if line and not line.startswith("#")]
