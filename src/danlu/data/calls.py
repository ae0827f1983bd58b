"""Tools and calls of tools, from the shapes in use to the one that OpenAI made common: `arguments` as an object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from danlu.data.rows import RowError, loads_list


def call_of(given: Any) -> dict[str, Any]:
    """An OpenAI-shaped call with `arguments` as an object, from any of the shapes in use."""
    if not isinstance(given, Mapping):
        raise RowError("bad_tool", detail=str(given)[:60])
    function = given.get("function") if isinstance(given.get("function"), Mapping) else given
    assert isinstance(function, Mapping), "either branch is a mapping"
    name, arguments = function.get("name"), function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError as error:
            raise RowError("bad_tool", detail=arguments[:60]) from error
    if not isinstance(name, str) or not name or not isinstance(arguments, Mapping):
        raise RowError("bad_tool", detail=str(dict(given))[:60])
    call: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}
    return {"id": given["id"], **call} if isinstance(given.get("id"), str) else call


def tools_of(value: Any) -> tuple[dict[str, Any], ...]:
    """OpenAI-shaped function schemas from a list or its JSON text; bare schemas are wrapped."""
    tools = []
    for given in loads_list(value):
        if not isinstance(given, Mapping) or not (isinstance(given.get("function"), Mapping) or given.get("name")):
            raise RowError("bad_tool", detail=str(given)[:60])
        tools.append(dict(given) if "function" in given else {"type": "function", "function": dict(given)})
    return tuple(tools)


def write_call(call: dict[str, Any]) -> dict[str, Any]:
    """The same call with its arguments as JSON text, as OpenAI writes it."""
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
