"""OpenAI messages: `{"messages": [{"role", "content", "tool_calls", ...}], "tools": [...]}`, content as text or typed
parts.

A turn may carry `weight`, `loss_weight` or `train` (its own loss mask) and `reasoning_content`. An inline `<think>`
stays where it is: the template decides about it.
"""

from __future__ import annotations

from typing import Any

from danlu.data import turns
from danlu.data.chats import chat_score, parse_chat, plan_chat
from danlu.data.formats.format import Plan, Row, held
from danlu.data.rows import Changes, RowError
from danlu.data.sample import Conversation, Origin, Sample

PLACES = ("messages", "conversations")


class Messages:
    name = "messages"
    parts: tuple[str, ...] = ("messages", "conversations", "tools", "system")

    def matches(self, row: Row) -> float:
        return chat_score(row, PLACES, "role")

    def parse(self, row: Row, origin: Origin, changes: Changes) -> Sample:
        return parse_chat(row, PLACES, self.parts, origin, changes)

    def plan(self, row: Row) -> Plan | None:
        return plan_chat(row, PLACES, self.parts)

    def write(self, sample: Sample) -> dict[str, Any]:
        if not isinstance(sample, Conversation):
            raise RowError("cannot_hold", format=self.name, what=sample.kind)
        row: dict[str, Any] = {"messages": [turns.write_openai(message) for message in sample.messages]}
        if sample.tools:
            row["tools"] = list(sample.tools)
        return held(self, row, sample)
