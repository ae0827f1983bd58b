"""Plain text in a column, for continued pretraining: `{"text", "title"}`."""

from __future__ import annotations

from typing import Any

from danlu.data import columns
from danlu.data.formats.format import Row, group_of, held, tags_of
from danlu.data.rows import Changes, RowError, text_of
from danlu.data.sample import Document, Origin, Sample


class Text:
    name = "text"
    parts: tuple[str, ...] = ("text", "title")

    def matches(self, row: Row) -> float:
        return 0.3 if columns.has(row, "text") else 0.0

    def parse(self, row: Row, origin: Origin, changes: Changes) -> Sample:
        if not columns.has(row, "text"):
            raise RowError("missing_column", part="text", found=", ".join(row))
        text = text_of(columns.get(row, "text"), "text", changes)
        if not text.strip():
            raise RowError("empty_text")
        title = columns.get(row, "title")
        title = title if isinstance(title, str) else ""
        return Document(text, origin, title, group_of(row), tags_of(row, self.parts))

    def write(self, sample: Sample) -> dict[str, Any]:
        if not isinstance(sample, Document):
            raise RowError("cannot_hold", format=self.name, what=sample.kind)
        return held(self, {"text": sample.text, **({"title": sample.title} if sample.title else {})}, sample)
