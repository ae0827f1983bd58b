"""Docling (MIT) reads the pages: layout, tables and text recognition in one. Its models must lie on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from danlu.core.errors import DataError
from danlu.data.ocr.recogniser import RecognitionError


class Docling:
    """Markdown page by page, with Docling's own defaults."""

    name = "docling"

    def __init__(self, command: str = "") -> None:
        self._converter: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_converter": None}  # models are loaded anew in each worker

    def key(self) -> dict[str, Any]:
        try:
            return {"name": self.name, "version": version("docling")}
        except PackageNotFoundError:
            return {"name": self.name, "version": None}

    def recognise(self, file: Path, pages: Sequence[int]) -> dict[int, str]:
        try:
            from docling import document_converter, exceptions  # lazy: gigabytes, and only for scans
        except ImportError as error:
            raise DataError(
                "documents.no_package", where="data.documents.ocr", package="docling", what="OCR"
            ) from error
        self._converter = self._converter or document_converter.DocumentConverter()
        found = {}
        for page in pages:
            try:
                result = self._converter.convert(file, page_range=(page, page))
            except exceptions.ConversionError as error:
                raise RecognitionError(str(error)[:200]) from error
            found[page] = str(result.document.export_to_markdown()).strip()
        return found
