"""A single e-mail (.eml, .mht): its text as one passage, its attachments as files inside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from danlu.data.opening import Source
from danlu.data.sources.letter import MAX_LETTER_BYTES, letter_items
from danlu.data.sources.source import Context, Fault, Item


def read_mail(source: Source, context: Context) -> Iterator[Item]:
    """A letter without text and attachments is refused."""
    content = bytearray()
    for chunk in source.chunks():
        content += chunk
        if len(content) > MAX_LETTER_BYTES:
            yield Fault(0, "document_too_large", {"limit": MAX_LETTER_BYTES >> 20})
            return
    yield from letter_items(bytes(content[source.mark_bytes :]), 1, "", PurePath(source.name).stem, context)
    if source.cut:
        yield Fault(0, "compressed_cut", {})
