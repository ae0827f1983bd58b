"""Question and answer as cells: a history of pairs, a reasoning column, and a conversation as bare pairs again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.data import columns
from danlu.data.rows import Changes, RowError, kind_of, loads_list, text_of
from danlu.data.sample import Conversation, Message


def reasoning_of(row: Mapping[str, Any], changes: Changes) -> str | None:
    return text_of(columns.get(row, "reasoning"), "reasoning", changes) or None


def history_of(value: Any, changes: Changes) -> list[Message]:
    """Pairs of question and answer, oldest first; JSON text is understood, as CSV cells hold it."""
    past: list[Message] = []
    for pair in loads_list(value, "history"):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError("wrong_type", part="history", kind=kind_of(pair), expected="[question, answer]")
        past.append(Message("user", text_of(pair[0], "history", changes)))
        past.append(Message("assistant", text_of(pair[1], "history", changes)))
    return past


def plain_pairs(sample: Conversation, name: str) -> tuple[str, list[list[str]]]:
    """(system text, [question, answer] pairs) of a conversation of bare text. Raises RowError for anything more."""
    rich = ["tools"] if sample.tools else []
    for message in sample.messages:
        rich += ["tool calls"] if message.tool_calls or message.role == "tool" else []
        rich += ["train"] if message.train is not None else []
        rich += ["name"] if message.name is not None else []
    rich += ["reasoning"] if any(message.reasoning for message in sample.messages[:-1]) else []
    if rich:
        raise RowError("cannot_hold", format=name, what=", ".join(dict.fromkeys(rich)))
    system = sample.messages[0].content if sample.messages[0].role == "system" else ""
    spoken = [message.content for message in sample.messages if message.role != "system"]
    return system, [list(pair) for pair in zip(spoken[::2], spoken[1::2], strict=True)]
