"""Pages of a PDF as pictures, and as a PDF of their own, for programs that read those. Grey PNG, no imaging library."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOTS_PER_INCH = 300
MAX_PIXELS = 60_000_000
"""A page of two square metres at 300 dpi; larger ones are drawn coarser."""


def is_pdf(file: Path) -> bool:
    """By content; else it is a picture itself."""
    with file.open("rb") as opened:
        return b"%PDF-" in opened.read(1024)


def draw_page(file: Path, page: int, picture: Path) -> None:
    """Write page `page` (from 1) of a PDF as a grey PNG. Raises pypdfium2.PdfiumError for a file that is none."""
    pypdfium2 = _pdfium()
    document = pypdfium2.PdfDocument(file)
    try:
        sheet = document[page - 1]
        width, height = sheet.get_size()
        scale = min(DOTS_PER_INCH / 72, (MAX_PIXELS / max(1.0, width * height)) ** 0.5)
        bitmap = sheet.render(scale=scale, grayscale=True)
        picture.write_bytes(_png(bitmap.width, bitmap.height, bitmap.stride, bytes(bitmap.buffer)))
        bitmap.close()
        sheet.close()
    finally:
        document.close()


def take_pages(file: Path, pages: Sequence[int], into: Path) -> None:
    """Write a PDF of these pages (from 1) alone."""
    pypdfium2 = _pdfium()
    document, fresh = pypdfium2.PdfDocument(file), pypdfium2.PdfDocument.new()
    try:
        fresh.import_pages(document, [page - 1 for page in pages])
        fresh.save(into)
    finally:
        fresh.close()
        document.close()


def _pdfium() -> Any:
    import pypdfium2  # lazy: only PDFs need the package

    return pypdfium2


def _png(width: int, height: int, stride: int, grey: bytes) -> bytes:
    """One byte a pixel, rows `stride` bytes apart (PNG specification, colour type 0)."""
    rows = b"".join(b"\x00" + grey[row * stride : row * stride + width] for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )
