"""Alpaca: `{"instruction", "input", "output", "system", "history": [[question, answer], ...]}`.

`input` follows the instruction on a new line. Two dialects are understood: several turns written into one string as
`<user>: ... <bot>: ...`, and self-instruct seeds with one entry under `instances`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from danlu.data import columns
from danlu.data.formats.format import Plan, Row, group_of, held, tags_of, tags_plan
from danlu.data.pairs import history_of, idle_columns, plain_pair, plain_pairs, reasoning_of
from danlu.data.rows import Changes, RowError, text_of
from danlu.data.sample import Conversation, Message, Origin, Sample
from danlu.data.turns import ordered, system_of

_INLINE = re.compile(r"\s*<(user|bot|用户|助手)>\s*[::]\s*", re.IGNORECASE)


class Alpaca:
    name = "alpaca"
    parts: tuple[str, ...] = (
        "instruction",
        "input",
        "output",
        "answer",
        "question",
        "system",
        "history",
        "reasoning",
        "instances",
    )

    def matches(self, row: Row) -> float:
        if not columns.has(row, "instruction"):
            return 0.0
        return 0.7 if columns.has(row, "output") or columns.has(row, "answer") or columns.has(row, "instances") else 0.2

    def parse(self, row: Row, origin: Origin, changes: Changes) -> Sample:
        row = _seed(row)
        names = columns.names_of(row)
        if "output" not in names and "answer" not in names:
            raise RowError("missing_column", part="output", found=", ".join(row))
        answer = row[names["output"] if "output" in names else names["answer"]]
        extra = names.get("input", names.get("question"))
        asked = [
            text_of(columns.get(row, "instruction"), "instruction", changes),
            text_of(row[extra] if extra is not None else None, "input", changes),
        ]
        question = "\n".join(text for text in asked if text.strip()) if asked[1].strip() else asked[0]
        past = history_of(row[names["history"]], changes) if "history" in names else []
        inline = split_inline(question) if not past else None
        if inline:
            past, question = inline
            changes.append(("inline_turns", {"num": len(past) // 2 + 1}))
        messages = [
            *(system_of(row[names["system"]], changes) if "system" in names else ()), *past, Message("user", question),
            Message("assistant", text_of(answer, "output", changes),
                    reasoning=reasoning_of(row, changes) if "reasoning" in names else None),
        ]  # fmt: skip
        ready = ordered(messages, changes)
        return Conversation(ready, origin, (), group_of(row), tags_of(row, self.parts))

    def plan(self, row: Row) -> Plan | None:
        names, tags = columns.names_of(row), tags_plan(row, self.parts)
        asked, answered = names.get("instruction"), names.get("output", names.get("answer"))
        extra, idle = names.get("input", names.get("question")), idle_columns(row)
        if tags is None or idle is None or asked is None or answered is None or "instances" in names:
            return None
        if not all(isinstance(row[name], str) for name in (asked, answered, extra) if name is not None):
            return None

        def quick(row: Row, origin: Origin) -> Sample | None:
            question, answer = row[asked], row[answered]
            if extra is not None and (more := row[extra]) and not more.isspace():
                question = f"{question}\n{more}" if question and not question.isspace() else more
            if "<" in question or (idle and any(row[name] for name in idle)):
                return None
            return plain_pair(question, answer, origin, tags(row))

        return Plan(quick)

    def write(self, sample: Sample) -> dict[str, Any]:
        if not isinstance(sample, Conversation):
            raise RowError("cannot_hold", format=self.name, what=sample.kind)
        system, pairs = plain_pairs(sample, self.name)
        row: dict[str, Any] = {"instruction": pairs[-1][0], "input": "", "output": pairs[-1][1]}
        row |= {"system": system} if system else {}
        row |= {"history": pairs[:-1]} if len(pairs) > 1 else {}
        last = sample.messages[-1].reasoning
        return held(self, row | ({"reasoning": last} if last else {}), sample)


def _seed(row: Row) -> Row:
    """A self-instruct task with one instance as a plain row."""
    instances = columns.get(row, "instances")
    if not isinstance(instances, list):
        return row
    if len(instances) != 1 or not isinstance(instances[0], Mapping):
        raise RowError("several_instances", num=len(instances))
    return {**{key: value for key, value in row.items() if key != columns.find(row, "instances")}, **instances[0]}


def split_inline(question: str) -> tuple[list[Message], str] | None:
    """`<user>: a <bot>: b <user>: c` as (turns before, last question), or None when it is not cleanly that."""
    if "<" not in question:
        return None
    pieces = _INLINE.split(question)
    if len(pieces) < 3 or pieces[0].strip():
        return None
    senders, texts = [sender.lower() for sender in pieces[1::2]], [text.strip() for text in pieces[2::2]]
    expected = [("user", "用户") if index % 2 == 0 else ("bot", "助手") for index in range(len(senders))]
    clean = all(sender in allowed for sender, allowed in zip(senders, expected, strict=True))
    if not clean or len(senders) % 2 == 0 or not all(texts):
        return None
    roles = [Message("user" if index % 2 == 0 else "assistant", text) for index, text in enumerate(texts[:-1])]
    return roles, texts[-1]
