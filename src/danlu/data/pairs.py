"""Question and answer as cells: a history of pairs, a reasoning column, and a conversation as bare pairs again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.data import columns
from danlu.data.rows import Changes, RowError, kind_of, loads_list, text_of
from danlu.data.sample import Conversation, Message, Origin, plain_conversation, plain_message


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


def idle_columns(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Columns of system, history and reasoning, which mostly hold nothing; None where rows with values of these types
    may hold something else than text."""
    kinds = {"system": (str, type(None)), "reasoning": (str, type(None)), "history": (str, list, type(None))}
    found = [(name, kind) for part, kind in kinds.items() if (name := columns.find(row, part)) is not None]
    return tuple(name for name, _ in found) if all(isinstance(row[name], kind) for name, kind in found) else None


def plain_pair(question: str, answer: str, origin: Origin, tags: dict[str, Any]) -> Conversation | None:
    """The conversation of a question and an answer, as most rows are; None where one of them is empty."""
    if not question or not answer or question.isspace() or answer.isspace():
        return None
    turns = plain_message("user", question), plain_message("assistant", answer)
    return plain_conversation(turns, origin, None, tags)


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
