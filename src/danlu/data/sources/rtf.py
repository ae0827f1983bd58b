"""Rich text (.rtf): one passage a document, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from danlu.data.office.rtf import read_rich_text
from danlu.data.opening import Source
from danlu.data.sources.source import Change, Context, Fault, Item, Passage

MAX_BYTES = 256 << 20


def read_rtf(source: Source, context: Context) -> Iterator[Item]:
    """What is there and not in the text is told."""
    content = bytearray()
    for chunk in source.chunks():
        content += chunk
        if len(content) > MAX_BYTES:
            yield Fault(0, "document_too_large", {"limit": MAX_BYTES >> 20})
            return
    rich = read_rich_text(bytes(content))
    if rich.num_pictures:
        context.note("note_pictures", num=rich.num_pictures)
    changes: list[Change] = []
    if any(map(str.isalpha, rich.furniture)):
        changes.append(("furniture_left_out", {"text": rich.furniture[:200]}))
    if rich.num_hidden:
        changes.append(("hidden_text", {"num": rich.num_hidden}))
    if rich.text.strip():
        yield Passage(1, rich.text, PurePath(source.name).stem, None, tuple(changes))
    else:
        yield Fault(0, "no_text", {})
    if source.cut:
        yield Fault(0, "compressed_cut", {})
