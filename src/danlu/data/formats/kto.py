"""KTO rows: a conversation and whether somebody liked it (`label`, `kto_tag`, `desirable`: true or false)."""

from __future__ import annotations

from typing import Any

from danlu.data import columns
from danlu.data.calls import tools_of
from danlu.data.formats.format import Row, group_of, held, tags_of
from danlu.data.pairs import history_of
from danlu.data.rows import Changes, RowError, text_of
from danlu.data.sample import Feedback, Message, Origin, Sample
from danlu.data.turns import ordered, parse_turns, system_of, write_openai

YES, NO = {"true", "yes", "是", "满意", "赞"}, {"false", "no", "否", "不满意", "踩"}


class Kto:
    name = "kto"
    parts: tuple[str, ...] = (
        "desirable", "messages", "conversations", "question", "instruction", "input", "answer", "output", "system",
        "history", "tools",
    )  # fmt: skip

    def matches(self, row: Row) -> float:
        if _liked(row) is None and not _is_named(row):
            return 0.0
        spoken = columns.find(row, "messages") or columns.find(row, "conversations")
        asked = columns.find(row, "question") or columns.find(row, "instruction")
        return 0.9 if spoken or (asked and columns.find(row, "answer")) else 0.0

    def parse(self, row: Row, origin: Origin, changes: Changes) -> Sample:
        liked = _liked(row)
        if liked is None:
            raise RowError("bad_flag", part="label", value=str(columns.get(row, "desirable"))[:40])
        system = columns.get(row, "system")
        given = columns.get(row, "messages") or columns.get(row, "conversations")
        if given:
            messages = parse_turns(given, changes, system)
        else:
            first = "instruction" if columns.has(row, "instruction") else "question"
            names = dict.fromkeys((columns.find(row, first), columns.find(row, "input")))
            asked = [text_of(row[name], name, changes) for name in names if name]
            answer = text_of(columns.get(row, "answer"), "answer", changes)
            question = Message("user", "\n".join(text for text in asked if text.strip()))
            past = history_of(columns.get(row, "history"), changes)
            messages = [*system_of(system, changes), *past, question, Message("assistant", answer)]
        tools = tools_of(columns.get(row, "tools"))
        return Feedback(ordered(messages, changes), liked, origin, tools, group_of(row), tags_of(row, self.parts))

    def write(self, sample: Sample) -> dict[str, Any]:
        if not isinstance(sample, Feedback):
            raise RowError("cannot_hold", format=self.name, what=sample.kind)
        row: dict[str, Any] = {"messages": [write_openai(turn) for turn in sample.messages], "label": sample.desirable}
        return held(self, row | ({"tools": list(sample.tools)} if sample.tools else {}), sample)


def _is_named(row: Row) -> bool:
    """Whether the column can only be a judgement; `label` may as well be a class."""
    name = columns.find(row, "desirable")
    return name is not None and columns.normal(name) != "label"


def _liked(row: Row) -> bool | None:
    """Booleans, and words for them as CSV cells hold them; a bare 0 or 1 counts only in a column of no other use."""
    value = columns.get(row, "desirable")
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if _is_named(row) and (word in ("0", "1") or value in (0, 1)):
        return word == "1" or value == 1
    return True if word in YES else False if word in NO else None
