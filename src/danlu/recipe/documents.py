"""Chapter `data.documents`: how documents are read beyond what stands in them as text."""

from __future__ import annotations

from danlu.recipe.section import Section


class DocumentsSection(Section):
    ocr: str | None = None
    """Who reads scanned and garbled pages: command, docling, mineru or another package's name. Empty: each such page is
    rejected by name."""

    ocr_command: str = ""
    """A program that prints a page's text, with {image} (PNG), {file} and {page}:
    tesseract {image} stdout -l chi_sim+eng."""
