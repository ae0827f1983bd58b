"""The id of a sample: a digest of what it says, not of where it was read.

Equal content has an equal id in every file, run and machine; any change of the text, a role, a label or a tool makes
another. Origin, group and tags are not part of it: they say where a sample comes from and what was found out about it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from danlu.core.files import printable
from danlu.data.sample import Document, Feedback, Label, Message, Preference, Sample
from danlu.data.texts import messages_of

PREFIX = "s_"
DIGITS = 32


def sample_id(sample: Sample) -> str:
    """`s_` and 128 bits in hex."""
    return PREFIX + hashlib.sha256(content_bytes(sample)).hexdigest()[:DIGITS]


def content_bytes(sample: Sample) -> bytes:
    """Canonical JSON of what the id covers; half surrogates, which JSON cannot hold, are escaped."""
    content = content_of(sample)
    try:
        return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # half surrogates, or integers beyond 64 bits in tool arguments
        return orjson.dumps({"escaped": _plain(content)}, option=orjson.OPT_SORT_KEYS)


def content_of(sample: Sample) -> dict[str, Any]:
    """The content alone, as JSON. Keys stand in their order, so that only what users nest needs sorting."""
    if isinstance(sample, Document):
        return {"kind": "document", "text": sample.text, "title": sample.title}
    if isinstance(sample, Label):
        return {"kind": "label", "label": sample.label, "text": sample.text}
    tools = {"tools": sample.tools} if sample.tools else {}
    if isinstance(sample, Preference):
        return {
            "chosen": [_turn(one) for one in sample.chosen],
            "kind": "preference",
            "prompt": [_turn(one) for one in sample.prompt],
            "rejected": [_turn(one) for one in sample.rejected],
            **tools,
        }
    judged = {"desirable": sample.desirable} if isinstance(sample, Feedback) else {}
    return {**judged, "kind": sample.kind, "messages": [_turn(one) for one in sample.messages], **tools}


def has_nested(sample: Sample) -> bool:
    """Whether it holds objects of the user's own (tools, calls), whose keys may stand in any order."""
    if isinstance(sample, Document | Label):
        return False
    return bool(sample.tools) or any(turn.tool_calls for turn in messages_of(sample))


def _turn(message: Message) -> dict[str, Any]:
    """Only what is set, so a new optional field leaves old ids as they are."""
    turn: dict[str, Any] = {"content": message.content}
    if message.name is not None:
        turn["name"] = message.name
    if message.reasoning is not None:
        turn["reasoning"] = message.reasoning
    turn["role"] = message.role
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = message.tool_calls
    if message.train is not None:
        turn["train"] = message.train
    return turn


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_plain(str(name)): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return {"int": str(value)}
    return value
