"""Keep the demo company out of the base: a text that holds one of its distinctive strings is dropped.

`recipes/company/distinctive.txt` has one entry a line; the parts of an entry are separated by tabs, and all of them
must occur. Lines that start with `#` are comments. Without the file nothing is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parents[1] / "company" / "distinctive.txt"


@dataclass(frozen=True)
class Distinctive:
    """The strings to stay away from."""

    entries: tuple[tuple[str, ...], ...]

    @classmethod
    def load(cls, path: Path = FILE) -> Distinctive:
        if not path.exists():
            return cls(())
        lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
        return cls(tuple(tuple(line.split("\t")) for line in lines if line and not line.startswith("#")))

    def found(self, text: str) -> bool:
        return any(all(part in text for part in entry) for entry in self.entries)
