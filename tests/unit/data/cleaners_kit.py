"""Rows for tests of cleaning, and one rule's judgement of them."""

from __future__ import annotations

from typing import Any

from danlu.data.cleaners import CLEANERS, Batch
from danlu.data.sample import Conversation, Document, Message, Origin, Sample
from danlu.data.stage import Outcome

PROSE = "公司为员工提供带薪年假、病假和婚假。员工应当提前三天提出申请，由部门主管批准后生效。" * 1


def chat(question: str, answer: str) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), Origin("c.jsonl", 1))


def document(text: str) -> Document:
    return Document(text, Origin("a.txt", 1))


def judged(name: str, *samples: Sample, given: tuple[Any, ...] = ()) -> list[str | None]:
    found = CLEANERS.load(name)(*given).judge(Batch(samples))
    return [found[row].reason if row in found else None for row in range(len(samples))]


def run(stages: Any, rows: list[Any]) -> list[tuple[Any, tuple[str, ...]]]:
    outcomes: list[Outcome] = [(row, ()) for row in rows]
    for stage in stages:
        alive = [row for row, _ in outcomes if row is not None]
        outcomes = stage(alive)
    return [(row, tuple(fate.reason for fate in fates)) for row, fates in outcomes]
