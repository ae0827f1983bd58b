"""OpenAI messages: `{"messages": [{"role", "content", "tool_calls", ...}], "tools": [...]}`, content as text or typed
parts.

A turn may carry `weight`, `loss_weight` or `train` (its own loss mask) and `reasoning_content`. An inline `<think>`
stays where it is: the template decides about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.data import columns, turns
from danlu.data.calls import tools_of
from danlu.data.formats.format import Row, group_of, held, tags_of
from danlu.data.rows import Changes, RowError
from danlu.data.sample import Conversation, Origin, Sample


class Messages:
    name = "messages"
    parts: tuple[str, ...] = ("messages", "conversations", "tools", "system")

    def matches(self, row: Row) -> float:
        for part in ("messages", "conversations"):
            value = columns.get(row, part)
            if isinstance(value, list) and value and isinstance(value[0], Mapping) and "role" in value[0]:
                return 0.85
        return 0.5 if columns.find(row, "messages") is not None else 0.0

    def parse(self, row: Row, origin: Origin, changes: Changes) -> Sample:
        given = columns.get(row, "messages")
        given = columns.get(row, "conversations") if given is None else given
        messages = turns.parse_turns(given, changes, columns.get(row, "system"))
        tools = tools_of(columns.get(row, "tools"))
        ready = turns.ordered(messages, changes)
        return Conversation(ready, origin, tools, group_of(row), tags_of(row, self.parts))

    def write(self, sample: Sample) -> dict[str, Any]:
        if not isinstance(sample, Conversation):
            raise RowError("cannot_hold", format=self.name, what=sample.kind)
        row: dict[str, Any] = {"messages": [turns.write_openai(message) for message in sample.messages]}
        if sample.tools:
            row["tools"] = list(sample.tools)
        return held(self, row, sample)
