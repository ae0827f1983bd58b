"""Turns of a conversation, from OpenAI's shape and into it: `arguments` of calls travel as JSON text there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from danlu.core.errors import DataError
from danlu.data.calls import call_of
from danlu.data.sample import Message
from danlu.openai.refused import RefusedError


def text_of(content: Any) -> str:
    """A string, nothing, or parts of which the texts count. TypeError, KeyError for anything else."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError("content is no text")
    return content or ""


def message_of(turn: Mapping[str, Any], where: str) -> Message:
    """Of a turn that `bodies` has checked. RefusedError for a call whose arguments are no JSON."""
    try:
        calls = tuple(call_of(call) for call in turn.get("tool_calls") or ())
    except DataError as fault:
        raise RefusedError("gateway.bad_call", param=f"{where}.tool_calls", said=fault.text) from fault
    return Message(
        turn["role"],
        text_of(turn.get("content")),
        name=turn.get("name"),
        reasoning=turn.get("reasoning_content"),
        tool_calls=calls,
        tool_call_id=turn.get("tool_call_id"),
    )


def turn_of(message: Message) -> dict[str, Any]:
    """Reasoning stays here. A call without an id gets its number: OpenAI's shape wants one."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name:
        turn["name"] = message.name
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [_call(call, number) for number, call in enumerate(message.tool_calls)]
    return turn


def _call(call: Mapping[str, Any], number: int) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    named = {"name": function["name"], "arguments": text}
    return {"id": call.get("id", f"call_{number}"), "type": "function", "function": named}
