"""ShareGPT: `{"conversations": [{"from": "human", "value": ...}], "system": ..., "tools": "[...]"}`.

Tool calls are turns of their own (`function_call`, its value JSON; results are `observation`). What the format has no
word for (a turn's loss mask, its reasoning, call ids) stands in extra keys of the turn under OpenAI's names.
"""

from __future__ import annotations

import json
from typing import Any

from danlu.data import turns
from danlu.data.chats import chat_score, parse_chat, plan_chat
from danlu.data.formats.format import Plan, Row, held
from danlu.data.rows import Changes, RowError
from danlu.data.sample import Conversation, Message, Origin, Sample

NAMES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}

PLACES = ("conversations", "messages")


class ShareGpt:
    name = "sharegpt"
    parts: tuple[str, ...] = ("conversations", "messages", "system", "tools")

    def matches(self, row: Row) -> float:
        return chat_score(row, PLACES, "from")

    def parse(self, row: Row, origin: Origin, changes: Changes) -> Sample:
        return parse_chat(row, PLACES, self.parts, origin, changes)

    def plan(self, row: Row) -> Plan | None:
        return plan_chat(row, PLACES, self.parts)

    def write(self, sample: Sample) -> dict[str, Any]:
        if not isinstance(sample, Conversation):
            raise RowError("cannot_hold", format=self.name, what=sample.kind)
        row: dict[str, Any] = {"conversations": [write_turn(message) for message in sample.messages]}
        if sample.tools:
            row["tools"] = json.dumps(list(sample.tools), ensure_ascii=False)
        return held(self, row, sample)


def write_turn(message: Message) -> dict[str, Any]:
    if message.tool_calls and message.content:
        raise RowError("cannot_hold", format=ShareGpt.name, what="text beside a tool call")
    turn: dict[str, Any] = {"from": NAMES[message.role], "value": message.content}
    if message.tool_calls:
        calls = [_call(call) for call in message.tool_calls]
        turn = {
            "from": "function_call",
            "value": json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False),
        }
    return turn | turns.extras_of(message)


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    plain = {"name": function["name"], "arguments": function["arguments"]}
    return {**plain, "id": call["id"]} if "id" in call else plain
