"""Calls of tools as Hermes and Qwen models write them: `<tool_call>` with JSON of a name and its arguments."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from typing import Any

import orjson

CALL, END_CALL = "<tool_call>", "</tool_call>"
_CALLS = re.compile(rf"{CALL}\s*(.*?)\s*(?:{END_CALL}|$)", re.DOTALL)


def called(text: str) -> tuple[str, list[dict[str, Any]]]:
    """(what was said, the calls in it). A call that is no JSON stays text: nothing is guessed."""
    calls = []
    for written in _CALLS.findall(text):
        try:
            given = json.loads(written)
            name, arguments = given["name"], given.get("arguments", {})
        except (ValueError, KeyError, TypeError, AttributeError):
            return text, []
        if not isinstance(name, str):
            return text, []
        told = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        function = {"name": name, "arguments": told}
        calls.append({"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function})
    return (_CALLS.sub("", text).strip() if calls else text), calls


def call_text(call: dict[str, Any]) -> str:
    """A call of OpenAI's shape as text."""
    function = call["function"]
    arguments = function["arguments"]
    with contextlib.suppress(orjson.JSONDecodeError):  # broken JSON is kept as the model wrote it
        arguments = orjson.loads(arguments) if isinstance(arguments, str) else arguments
    return f"{CALL}\n{orjson.dumps({'name': function['name'], 'arguments': arguments}).decode()}\n{END_CALL}"


def schema_of_call(tools: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The JSON Schema of one call of one of these, which holds its arguments to the tool's own schema."""
    ways, shared = [], {}
    for number, tool in enumerate(tools):
        function, place = tool["function"], f"#/$defs/{number}"
        shared[str(number)] = _moved(function.get("parameters") or {"type": "object"}, place)
        ways.append({
            "type": "object", "properties": {"name": {"const": function["name"]}, "arguments": {"$ref": place}},
            "required": ["name", "arguments"], "additionalProperties": False,
        })  # fmt: skip
    return (ways[0] if len(ways) == 1 else {"anyOf": ways}) | {"$defs": shared}


def _moved(schema: Any, place: str) -> Any:
    """A schema that now lies at `place` of a larger one: what it says of its own parts is found there."""
    if isinstance(schema, list):
        return [_moved(one, place) for one in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _moved(one, place) for name, one in schema.items() if name not in ("$schema", "$id")}
    target = moved.get("$ref")
    return moved | {"$ref": place + target[1:]} if isinstance(target, str) and target.startswith("#") else moved
