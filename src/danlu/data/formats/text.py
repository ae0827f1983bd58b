"""Plain text in a column, for continued pretraining: `{"text", "title"}`."""

from __future__ import annotations

from typing import Any

from danlu.data import columns
from danlu.data.formats.format import Plan, Row, group_of, held, tags_of, tags_plan
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

    def plan(self, row: Row) -> Plan | None:
        tags, name, titled = tags_plan(row, self.parts), columns.find(row, "text"), columns.find(row, "title")
        if tags is None or name is None or not isinstance(row[name], str):
            return None
        title = titled if titled is not None and isinstance(row[titled], str) else None

        def quick(row: Row, origin: Origin) -> Sample | None:
            text = row[name]
            if not text or text.isspace():
                return None
            return Document(text, origin, "" if title is None else row[title], None, tags(row))

        return Plan(quick)

    def write(self, sample: Sample) -> dict[str, Any]:
        if not isinstance(sample, Document):
            raise RowError("cannot_hold", format=self.name, what=sample.kind)
        return held(self, {"text": sample.text, **({"title": sample.title} if sample.title else {})}, sample)
