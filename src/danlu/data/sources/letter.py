"""What a letter gives: its text as a passage, its attachments as files inside it. For the readers `mail` and `mbox`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from danlu.data.enclosed import NoRoomError, place_for
from danlu.data.letters import read_letter
from danlu.data.sources.source import Context, Enclosed, Fault, Item, Passage

MAX_LETTER_BYTES = 128 << 20


def letter_items(content: bytes, line: int, prefix: str, title: str, context: Context) -> Iterator[Item]:
    """`line` is where the letter begins in its file; `prefix` tells letters of one mailbox apart in the names of their
    attachments."""
    letter = read_letter(content)
    if letter.text:
        yield Passage(line, letter.text, letter.subject or title)
    elif not letter.attachments:
        yield Fault(line, "undecodable" if letter.num_unreadable else "no_text", {}, content[:2000].decode("latin-1"))
    elif not letter.num_unreadable:
        context.note("note_letter_without_text", line=line)
    if letter.num_unreadable and (letter.text or letter.attachments):
        yield Fault(line, "undecodable", {})
    if letter.num_pictures:
        context.note("note_pictures", num=letter.num_pictures)
    for number, (name, attached) in enumerate(letter.attachments):
        with tempfile.TemporaryDirectory(prefix="danlu-unpacked-") as folder:
            path = place_for(Path(folder), name, number)
            try:
                context.room.enter()
                context.room.unpack([attached], path, len(attached))
            except NoRoomError as error:
                yield Fault(line, error.reason, {"limit": error.limit}, place=f"{prefix}{name}")
                return
            yield Enclosed(f"{prefix}{name}", path, line)
