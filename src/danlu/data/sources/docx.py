"""Word documents (.docx, .docm): one passage a document, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from danlu.data.office.package import BrokenPartError, local, open_package
from danlu.data.office.title import core_title
from danlu.data.office.word import Word
from danlu.data.opening import Source
from danlu.data.sources.source import Change, Context, Fault, Item, Passage

TOLD = {"deleted": "tracked_deletions", "hidden": "hidden_text", "contents": "contents_left_out"}


def read_docx(source: Source, context: Context) -> Iterator[Item]:
    """What stands in the document's body. What is there and not in the text is told."""
    try:
        with open_package(source) as package:
            part = package.related("", "officeDocument") or "word/document.xml"
            word = Word(package, part)
            text = word.markdown()
            furniture = word.furniture()
            title = core_title(package)
            comments = package.related(part, "comments")
            num_comments = sum(local(one) == "comment" for one in package.xml(comments)) if comments else 0
    except BrokenPartError as error:
        yield Fault(0, "broken_part", {"detail": str(error)[:200]})
        return
    changes: list[Change] = [(TOLD[what], {"num": num}) for what, num in word.left_out.items() if what in TOLD]
    if furniture:
        changes.append(("furniture_left_out", {"text": furniture[:200]}))
    if num_comments:
        context.note("note_word_comments", num=num_comments)
    if word.left_out["pictures"]:
        context.note("note_pictures", num=word.left_out["pictures"])
    if not text.strip():
        yield Fault(0, "no_text", {})
        return
    yield Passage(1, text, title or PurePath(source.name).stem, None, tuple(changes))
