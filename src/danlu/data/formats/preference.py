"""Pairs of a better and a worse answer: LLaMA-Factory's ranking rows, chosen/rejected as text or as messages, and the
transcripts of HH-RLHF ("\\n\\nHuman: ... \\n\\nAssistant: ...").

Where chosen and rejected are whole conversations, the turns they share are the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from danlu.data import columns
from danlu.data.calls import tools_of
from danlu.data.formats.format import Row, group_of, held, tags_of
from danlu.data.rows import Changes, RowError, text_of
from danlu.data.sample import Message, Origin, Preference, Sample
from danlu.data.turns import ordered, parse_turn, parse_turns, system_of, write_openai

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")


class PreferencePairs:
    name = "preference"
    parts: tuple[str, ...] = (
        "chosen",
        "rejected",
        "conversations",
        "messages",
        "question",
        "instruction",
        "input",
        "system",
        "tools",
    )

    def matches(self, row: Row) -> float:
        return 0.95 if columns.has(row, "chosen", "rejected") else 0.0

    def parse(self, row: Row, origin: Origin, changes: Changes) -> Sample:
        for part in ("chosen", "rejected"):
            if not columns.has(row, part):
                raise RowError("missing_column", part=part, found=", ".join(row))
        better, worse = columns.get(row, "chosen"), columns.get(row, "rejected")
        prompt = _prompt(row, changes)
        transcripts = (
            isinstance(better, str)
            and isinstance(worse, str)
            and bool(_SPEAKER.match(better) and _SPEAKER.match(worse))
        )
        if transcripts and not prompt:
            chosen, rejected = split_transcript(better), split_transcript(worse)
        else:
            chosen, rejected = _answer(better, "chosen", changes), _answer(worse, "rejected", changes)
        if not prompt or "assistant" not in (chosen[0].role, rejected[0].role):
            head = _shared(chosen, rejected)
            prompt, chosen, rejected = chosen[:head], chosen[head:], rejected[head:]
        if chosen == rejected:
            raise RowError("identical_pair")
        if not chosen or not rejected or not prompt:
            raise RowError("prompts_differ")
        for answer, part in ((chosen, "chosen"), (rejected, "rejected")):
            if answer[0].role != "assistant":
                raise RowError("prompts_differ")
            if not any(turn.content.strip() or turn.tool_calls for turn in answer):
                raise RowError("empty_side", part=part)
        ready = ordered(prompt, changes, prompt=True)
        for answer in (chosen, rejected):
            ordered([*ready, *answer], [])
        tools = tools_of(columns.get(row, "tools"))
        return Preference(ready, tuple(chosen), tuple(rejected), origin, tools, group_of(row), tags_of(row, self.parts))

    def write(self, sample: Sample) -> dict[str, Any]:
        if not isinstance(sample, Preference):
            raise RowError("cannot_hold", format=self.name, what=sample.kind)
        row: dict[str, Any] = {
            "conversations": [write_openai(turn) for turn in sample.prompt],
            "chosen": [write_openai(turn) for turn in sample.chosen],
            "rejected": [write_openai(turn) for turn in sample.rejected],
        }
        return held(self, row | ({"tools": list(sample.tools)} if sample.tools else {}), sample)


def _prompt(row: Row, changes: Changes) -> list[Message]:
    """The turns before the answers, where the row states them."""
    system = columns.get(row, "system")
    for part in ("conversations", "question", "messages"):
        value = columns.get(row, part)
        if isinstance(value, list) and value and (part != "question" or isinstance(value[0], Mapping)):
            return parse_turns(value, changes, system)
    asked = [
        text_of(columns.get(row, part), part, changes) for part in ("instruction", "input") if columns.has(row, part)
    ]
    if not any(text.strip() for text in asked) and columns.has(row, "question"):
        asked = [text_of(columns.get(row, "question"), "question", changes)]
    asked = [text for text in asked if text.strip()]
    if len(asked) == 1 and _SPEAKER.match(asked[0]):
        said = split_transcript(asked[0])
        return said[:-1] if said[-1].role == "assistant" and not said[-1].content else said
    return [*system_of(system, changes), Message("user", "\n".join(asked))] if asked else []


def _answer(value: Any, part: str, changes: Changes) -> list[Message]:
    """A text, one message, or a list of messages."""
    if isinstance(value, list):
        if not value:
            raise RowError("empty_side", part=part)
        if not isinstance(value[0], Mapping):
            raise RowError("wrong_type", part=part, kind="list", expected="text")
        return parse_turns(value, changes)
    if isinstance(value, Mapping):
        return [parse_turn(value, changes)]
    text = text_of(value, part, changes)
    if not text.strip():
        raise RowError("empty_side", part=part)
    return [Message("assistant", text)]


def split_transcript(text: str) -> list[Message]:
    """Turns of an HH-RLHF transcript, spaces at their edges taken off."""
    pieces = _SPEAKER.split(text)
    return [
        Message("user" if speaker == "Human" else "assistant", said.strip())
        for speaker, said in zip(pieces[1::2], pieces[2::2], strict=True)
    ]


def _shared(chosen: list[Message], rejected: list[Message]) -> int:
    """How many turns both begin with; the last turn of each is always its own."""
    head = 0
    most = min(len(chosen), len(rejected)) - 1
    while head < most and chosen[head] == rejected[head]:
        head += 1
    return head
