"""Question and answer in two columns, under any of the names in `columns.NAMES`; optional system, history, reasoning.

TRL's conversational kind (prompt and completion as lists of messages) is understood too.
"""

from __future__ import annotations

from typing import Any

from danlu.data import columns
from danlu.data.calls import tools_of
from danlu.data.formats.format import Plan, Row, group_of, held, tags_of, tags_plan
from danlu.data.pairs import history_of, idle_columns, plain_pair, plain_pairs, reasoning_of
from danlu.data.rows import Changes, RowError, text_of
from danlu.data.sample import Conversation, Message, Origin, Sample
from danlu.data.turns import ordered, parse_turns, system_of


class PromptCompletion:
    name = "prompt_completion"
    parts: tuple[str, ...] = ("question", "answer", "system", "history", "reasoning", "tools")

    def matches(self, row: Row) -> float:
        return 0.6 if columns.has(row, "question", "answer") else 0.1 if columns.has(row, "question") else 0.0

    def parse(self, row: Row, origin: Origin, changes: Changes) -> Sample:
        for part in ("question", "answer"):
            if not columns.has(row, part):
                raise RowError("missing_column", part=part, found=", ".join(row))
        question, answer = columns.get(row, "question"), columns.get(row, "answer")
        messages = system_of(columns.get(row, "system"), changes) + history_of(columns.get(row, "history"), changes)
        if isinstance(question, list) and question and isinstance(question[0], dict):
            messages += parse_turns(question, changes)
        else:
            messages.append(Message("user", text_of(question, "question", changes)))
        if isinstance(answer, list) and answer and isinstance(answer[0], dict):
            messages += parse_turns(answer, changes)
        else:
            text = text_of(answer, "answer", changes)
            messages.append(Message("assistant", text, reasoning=reasoning_of(row, changes)))
        tools = tools_of(columns.get(row, "tools"))
        return Conversation(ordered(messages, changes), origin, tools, group_of(row), tags_of(row, self.parts))

    def plan(self, row: Row) -> Plan | None:
        names, tags, idle = columns.names_of(row), tags_plan(row, self.parts), idle_columns(row)
        asked, answered = names.get("question"), names.get("answer")
        if tags is None or idle is None or asked is None or answered is None or "tools" in names:
            return None
        if not isinstance(row[asked], str) or not isinstance(row[answered], str):
            return None

        def quick(row: Row, origin: Origin) -> Sample | None:
            if idle and any(row[name] for name in idle):
                return None
            return plain_pair(row[asked], row[answered], origin, tags(row))

        return Plan(quick)

    def write(self, sample: Sample) -> dict[str, Any]:
        if not isinstance(sample, Conversation):
            raise RowError("cannot_hold", format=self.name, what=sample.kind)
        system, pairs = plain_pairs(sample, self.name)
        row: dict[str, Any] = {"prompt": pairs[-1][0], "completion": pairs[-1][1]}
        row |= {"system": system} if system else {}
        row |= {"history": pairs[:-1]} if len(pairs) > 1 else {}
        last = sample.messages[-1].reasoning
        return held(self, row | ({"reasoning": last} if last else {}), sample)
