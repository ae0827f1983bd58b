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

        Raises DataError `data.missing_package` or `documents.no_program` when the tool is not there, RecognitionError
        when it fails on this file; a page it cannot read is left out.
        """
        ...


class MakesRecogniser(Protocol):
    """What stands on the shelf: `command` is the recipe's `ocr_command`, empty where none was given."""

    def __call__(self, command: str = "") -> Recogniser: ...


class RecognitionError(Exception):
    """The tool was there and failed on this file; the argument says how, for the ledger."""
