"""Mailboxes (mbox, RFC 4155): a passage a letter, `line` is where it begins; attachments are `box.mbox#120/a.docx`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath

from danlu.data.opening import Source
from danlu.data.sources.letter import MAX_LETTER_BYTES, letter_items
from danlu.data.sources.source import Context, Fault, Item

_BEGIN = re.compile(rb"From \S*.*\d{4}")
_QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)


def read_mbox(source: Source, context: Context) -> Iterator[Item]:
    """Letters one at a time, whatever the mailbox's size."""
    stem = PurePath(source.name).stem
    for line, content in _letters(source):
        if content is None:
            yield Fault(line, "document_too_large", {"limit": MAX_LETTER_BYTES >> 20})
        else:
            yield from letter_items(_QUOTED.sub(rb"\1", content), line, f"{line}/", f"{stem} {line}", context)
    if source.cut:
        yield Fault(0, "compressed_cut", {})


def _letters(source: Source) -> Iterator[tuple[int, bytes | None]]:
    """(line of its beginning, the letter without its "From " line); None for a letter that is too large."""
    parts: list[bytes] = []
    begin, size, blank = 1, 0, True
    for number, line in enumerate(_lines(source), start=1):
        if blank and _BEGIN.match(line):
            if any(part.strip() for part in parts):
                yield begin, b"".join(parts) if size <= MAX_LETTER_BYTES else None
            parts, begin, size = [], number, 0
        else:
            size += len(line)
            if size <= MAX_LETTER_BYTES:
                parts.append(line)
        blank = not line.strip()
    if any(part.strip() for part in parts):
        yield begin, b"".join(parts) if size <= MAX_LETTER_BYTES else None


def _lines(source: Source) -> Iterator[bytes]:
    """Lines with their ends; a line without an end in sight comes in pieces."""
    rest, skip = b"", source.mark_bytes
    for chunk in source.chunks():
        if skip:
            chunk, skip = chunk[skip:], max(0, skip - len(chunk))
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"
        if len(rest) > 1 << 20:
            yield rest
            rest = b""
    if rest:
        yield rest
