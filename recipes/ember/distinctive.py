"""Keep the demo company out of the base: a text that holds one of its distinctive strings is dropped.

`recipes/company/distinctive.txt` has one entry a line; the parts of an entry are separated by tabs, and all of them
must occur. Lines that start with `#` are comments. Without the file nothing is dropped.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parents[1] / "company" / "distinctive.txt"
GRAM = 4


@dataclass(frozen=True)
class Distinctive:
    """The entries under the first characters of their first part, so that most texts are passed at a glance."""

    by_start: dict[int, dict[str, list[tuple[str, ...]]]]

    @classmethod
    def of(cls, entries: list[tuple[str, ...]]) -> Distinctive:
        by_start: dict[int, dict[str, list[tuple[str, ...]]]] = defaultdict(lambda: defaultdict(list))
        for entry in entries:
            size = min(GRAM, len(entry[0]))
            by_start[size][entry[0][:size]].append(entry)
        return cls({size: dict(starts) for size, starts in by_start.items()})

    @classmethod
    def load(cls, path: Path = FILE) -> Distinctive:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return cls.of([tuple(line.split("\t")) for line in map(str.strip, lines) if line and not line.startswith("#")])

    def found(self, text: str) -> bool:
        for size, starts in self.by_start.items():
            grams = {text[at : at + size] for at in range(len(text) - size + 1)}
            for start in grams & starts.keys():
                if any(all(part in text for part in entry) for entry in starts[start]):
                    return True
        return False
