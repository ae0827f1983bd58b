"""The contract of this shelf: a recogniser reads pages that have no usable text layer.

Readers queue such pages and ask once per file. A page without an answer, or with an empty one, is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class Recogniser(Protocol):
    """Picklable, and slow: a page may take seconds. Two calls with the same pages give the same text."""

    @property
    def name(self) -> str: ...

    def key(self) -> dict[str, Any]:
        """JSON: name, version and every parameter that can change a text. Cache keys and manifests hold it."""
        ...

    def recognise(self, file: Path, pages: Sequence[int]) -> dict[int, str]:
        """Text or Markdown by page number (from 1) of a PDF or, as page 1, of an image file.

        Raises DataError when the tool is missing or fails as a whole; a page it cannot read is left out.
        """
        ...
