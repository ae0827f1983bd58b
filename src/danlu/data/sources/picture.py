"""Pictures (PNG, JPEG, TIFF, BMP): a page for text recognition; without a recogniser, refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from danlu.data.ocr.recogniser import RecognitionError
from danlu.data.opening import Source
from danlu.data.sources.source import Context, Fault, Item, Passage


def read_picture(source: Source, context: Context) -> Iterator[Item]:
    """One passage, page 1."""
    if context.recogniser is None:
        yield Fault(0, "picture_needs_ocr", {})
        return
    name = context.recogniser.name
    try:
        text = context.recogniser.recognise(source.path, [1]).get(1, "").strip()
    except RecognitionError as error:
        yield Fault(0, "ocr_failed", {"name": name, "detail": str(error)})
        return
    if text:
        yield Passage(1, text, PurePath(source.name).stem, 1, (("recognised", {"name": name}),))
    else:
        yield Fault(0, "ocr_empty", {"name": name, "page": 1})
