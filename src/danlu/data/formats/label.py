"""Classification: a text and its class (`review`/`label`, `text`/`sentiment`, 评论/标签, ...). Classes are kept as
written."""

from __future__ import annotations

from typing import Any

from danlu.data import columns
from danlu.data.formats.format import Plan, Row, group_of, held, tags_of, tags_plan
from danlu.data.rows import Changes, RowError, kind_of, text_of
from danlu.data.sample import Label, Origin, Sample


class Labels:
    name = "label"
    parts: tuple[str, ...] = ("text", "label")

    def matches(self, row: Row) -> float:
        if not columns.has(row, "text", "label"):
            return 0.0
        return 0.5 if isinstance(columns.get(row, "label"), str | int | float | None) else 0.0

    def parse(self, row: Row, origin: Origin, changes: Changes) -> Sample:
        if not columns.has(row, "text", "label"):
            missing = "text" if not columns.has(row, "text") else "label"
            raise RowError("missing_column", part=missing, found=", ".join(row))
        text = text_of(columns.get(row, "text"), "text", changes)
        label = columns.get(row, "label")
        if isinstance(label, list | dict):
            raise RowError("wrong_type", part="label", kind=kind_of(label), expected="text")
        if not text.strip():
            raise RowError("empty_text")
        if label is None or not str(label).strip():
            raise RowError("empty_label")
        named = str(label) if isinstance(label, bool | int | float) else text_of(label, "label", changes)
        return Label(text, named, origin, group_of(row), tags_of(row, self.parts))

    def plan(self, row: Row) -> Plan | None:
        tags, name, judged = tags_plan(row, self.parts), columns.find(row, "text"), columns.find(row, "label")
        if tags is None or name is None or judged is None:
            return None
        if not isinstance(row[name], str) or not isinstance(row[judged], str | bool | int | float):
            return None

        def quick(row: Row, origin: Origin) -> Sample | None:
            text, label = row[name], str(row[judged])
            if not text or text.isspace() or not label or label.isspace():
                return None
            return Label(text, label, origin, None, tags(row))

        return Plan(quick)

    def write(self, sample: Sample) -> dict[str, Any]:
        if not isinstance(sample, Label):
            raise RowError("cannot_hold", format=self.name, what=sample.kind)
        return held(self, {"text": sample.text, "label": sample.label}, sample)
