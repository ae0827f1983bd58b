"""A row as bytes and back, nothing lost: content, tags and marks as JSON, the rest as plain values.

The content is the very JSON that the id is a digest of, wherever no user's object lies in it; those keep the order of
their keys, for the order reaches the model. What JSON cannot hold (half surrogates, huge numbers, NaN) is written by
Python's own encoder behind a blank, the sign to read it by Python's decoder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, get_args

import orjson

from danlu.data.flow.marks import Mark
from danlu.data.identity import DIGITS, PREFIX, content_of, has_nested, sample_id
from danlu.data.sample import (
    Conversation,
    Document,
    Feedback,
    Label,
    Message,
    Origin,
    Preference,
    Role,
    Sample,
    plain_conversation,
    plain_message,
)
from danlu.data.stage import Fate


def pack_content(sample: Sample) -> tuple[bytes, str]:
    """The content as JSON, and the sample's id."""
    if isinstance(sample, Conversation) and not sample.tools and (packed := _pack_plain(sample.messages)) is not None:
        return packed, _name_of(packed)
    content = content_of(sample)
    try:
        packed = _plainly(content)
    except (TypeError, ValueError):
        return b" " + json.dumps(content).encode(), sample_id(sample)
    return packed, sample_id(sample) if has_nested(sample) else _name_of(packed)


def _name_of(packed: bytes) -> str:
    return PREFIX + hashlib.sha256(packed).hexdigest()[:DIGITS]


_OPENED = b'{"kind":"conversation","messages":[{"content":'
_BETWEEN_TURNS = {role: f',"role":"{role}"}},{{"content":'.encode() for role in get_args(Role)}
_AFTER_TURNS = {role: f',"role":"{role}"}}]}}'.encode() for role in get_args(Role)}
_ASKED, _ANSWERED = _BETWEEN_TURNS["user"], _AFTER_TURNS["assistant"]


def pack_pair(asked: str, answered: str) -> tuple[bytes, str] | None:
    """`pack_content` of a question and an answer alone (`texts.is_pair`); None where orjson cannot write them."""
    try:
        packed = b"".join((_OPENED, orjson.dumps(asked), _ASKED, orjson.dumps(answered), _ANSWERED))
    except TypeError:  # half surrogates
        return None
    return packed, _name_of(packed)


def _pack_plain(turns: Sequence[Message]) -> bytes | None:
    """The same without making objects of it, for turns of a role and a text alone; None of any other."""
    parts = [_OPENED]
    try:
        for turn in turns:
            if (
                turn.reasoning is not None
                or turn.tool_calls
                or turn.name is not None
                or turn.train is not None
                or turn.tool_call_id is not None
            ):
                return None
            parts += (orjson.dumps(turn.content), _BETWEEN_TURNS[turn.role])
    except (TypeError, KeyError):  # half surrogates
        return None
    if len(parts) == 1:
        return None
    parts[-1] = _AFTER_TURNS[turns[-1].role]
    return b"".join(parts)


def unpack(content: bytes, origin: Origin, group: str | None, tags: dict[str, Any]) -> Sample:
    """The sample that was packed."""
    value = json.loads(content) if content[:1] == b" " else orjson.loads(content)
    kind = value["kind"]
    if kind == "document":
        return Document(value["text"], origin, value["title"], group, tags)
    if kind == "label":
        return Label(value["text"], value["label"], origin, group, tags)
    tools = tuple(value.get("tools", ()))
    if kind == "preference":
        prompt, chosen, rejected = (_turns(value[part]) for part in ("prompt", "chosen", "rejected"))
        return Preference(prompt, chosen, rejected, origin, tools, group, tags)
    turns = _turns(value["messages"])
    if kind == "feedback":
        return Feedback(turns, value["desirable"], origin, tools, group, tags)
    if not tools:
        return plain_conversation(turns, origin, group, tags)
    return Conversation(turns, origin, tools, group, tags)


def pack_json(value: Any) -> bytes:
    """Tags, marks and the like; empty for an empty value."""
    if not value:
        return b""
    try:
        return _plainly(value, orjson.OPT_SERIALIZE_NUMPY)
    except (TypeError, ValueError):
        return b" " + json.dumps(value, default=str).encode()


def _plainly(value: Any, option: int | None = None) -> bytes:
    """By orjson. TypeError, ValueError for what it cannot write, or writes as null: a number that is none."""
    packed = orjson.dumps(value, option=option)
    if b"null" in packed:
        json.dumps(value, default=str, allow_nan=False)
    return packed


def unpack_json(packed: bytes) -> Any:
    return json.loads(packed) if packed[:1] == b" " else orjson.loads(packed)


def pack_marks(marks: Sequence[Mark]) -> bytes:
    return pack_json([[mark.stage, mark.fate.action, mark.fate.reason, mark.fate.values] for mark in marks])


def unpack_marks(packed: bytes) -> tuple[Mark, ...]:
    if not packed:
        return ()
    return tuple(Mark(stage, Fate(action, reason, values)) for stage, action, reason, values in unpack_json(packed))


def _turns(values: list[dict[str, Any]]) -> tuple[Message, ...]:
    return tuple([plain_message(turn["role"], turn["content"]) if len(turn) == 2 else _turn(turn) for turn in values])


def _turn(value: dict[str, Any]) -> Message:
    return Message(
        value["role"],
        value["content"],
        value.get("name"),
        value.get("reasoning"),
        tuple(value.get("tool_calls", ())),
        value.get("tool_call_id"),
        value.get("train"),
    )
