"""The text of a file as it was read, again: what character ranges in an `Origin` point into.

The same bytes give the same text, on any machine, as long as the same recogniser (or none) reads scanned pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from danlu.core.errors import DataError
from danlu.data.ledger import Ledger
from danlu.data.ocr.recogniser import Recogniser
from danlu.data.sample import BETWEEN, Document, Origin
from danlu.data.sources import read


@dataclass(frozen=True, slots=True)
class ExtractedText:
    """`text` of the document with this digest (sha256 of the file's bytes), and where its passages lie in it."""

    file: str
    document: str
    title: str
    text: str
    passages: tuple[Origin, ...]
    """In order: page, start, end."""

    def page_of(self, position: int) -> int | None:
        """The page (from 1) that a character stands on, where the file has pages."""
        return next((origin.page for origin in self.passages if (origin.end or 0) > position), None)


def text_of_document(file: str, document: str | None = None, *, recogniser: Recogniser | None = None) -> ExtractedText:
    """The text of a file, or of one inside it: `contracts.zip#2024/lease.docx`, as origins name it.

    `document`, a digest, is what `Origin.document` said: DataError when nothing in the file has it (the file was
    changed since), when the file holds no document, or several and neither name nor digest tells which.
    """
    found: dict[str, list[Document]] = {}
    for sample in read([_outer(file)], Ledger(), recogniser=recogniser):
        if isinstance(sample, Document) and sample.origin.document and sample.origin.start is not None:
            found.setdefault(sample.origin.document, []).append(sample)
    if document is None:
        fitting = [digest for digest, parts in found.items() if any(_is_named(part, file) for part in parts)]
        if len(fitting) != 1:
            raise DataError("documents.which_document", where=file, num=len(fitting))
        (document,) = fitting
    if document not in found:
        raise DataError("documents.document_changed", where=file, given=document[:12])
    parts = [part for part in found[document] if part.group == found[document][0].group]  # a twin in the same archive
    return ExtractedText(
        parts[0].group or file, document, parts[0].title, joined(parts), tuple(part.origin for part in parts)
    )


def joined(parts: list[Document]) -> str:
    """Passages of one file as its text."""
    return BETWEEN.join(part.text for part in parts)


def _outer(file: str) -> str:
    """The file on disk: all before the first sign that parts it from what lies inside; names may hold the sign too."""
    places = [place for place, char in enumerate(file) if char == "#"]
    return next((file[:place] for place in places if Path(file[:place]).is_file()), file)


def _is_named(part: Document, file: str) -> bool:
    return file in (part.group, part.origin.file)
