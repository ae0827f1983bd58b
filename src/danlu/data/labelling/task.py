"""One row for a person to judge, and what the person said; the shape that every labelling tool is translated to.

A task asks for one of several choices (a label) or for a text (the answer to a conversation's last question). Its id is
the sample's own, so that what comes back finds the row it was made of.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from danlu.data.identity import sample_id
from danlu.data.ledger import Ledger
from danlu.data.sample import Conversation, Document, Label, Message, Origin, Preference, Role, Sample
from danlu.data.texts import answer_at

Turn = tuple[str, str]
"""(role, content)"""
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What a model thinks, shown to the person beforehand. `score` in [0, 1] is how sure it is."""

    value: str
    score: float = 0.0
    model: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """`choices` empty: a text is asked for. `turns`: the conversation so far, () where `text` is all there is."""

    id: str
    text: str
    choices: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    origin: str = ""
    group: str | None = None
    suggestion: Suggestion | None = None
    why: Mapping[str, Any] = field(default_factory=dict)
    """Why it was chosen: doubt, distance, density, score, batch; of a doubtful label, the label as `given`."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one person said of one task. `who` is as the tool names them, `when` an ISO time; both may be empty."""

    task: str
    value: str
    text: str = ""
    turns: tuple[Turn, ...] = ()
    who: str = ""
    when: str = ""
    group: str | None = None
    choices: tuple[str, ...] = ()


def task_of(sample: Sample, choices: Sequence[str] = ()) -> Task:
    """What is asked of a person about this sample: with choices which label, without, the answer."""
    turns: tuple[Turn, ...] = ()
    if isinstance(sample, Label | Document):
        text = sample.text
    else:
        messages = sample.prompt if isinstance(sample, Preference) else sample.messages[: answer_at(sample.messages)]
        turns = tuple((message.role, message.content) for message in messages)
        text = turns[0][1] if len(turns) == 1 else "\n".join(f"{role}: {content}" for role, content in turns)
    return Task(sample_id(sample), text, tuple(choices), turns, str(sample.origin), sample.group)


def sample_of(judgement: Judgement, origin: Origin, tool: str) -> Sample:
    """A training row with the person as provenance: `made_by` human, by whom, when, with which tool, of which row."""
    tags: dict[str, Any] = {"made_by": "human", "tool": tool, "parents": [judgement.task]}
    tags |= {name: value for name, value in (("annotator", judgement.who), ("labelled_at", judgement.when)) if value}
    if judgement.choices or not judgement.turns:
        return Label(judgement.text, judgement.value, origin, judgement.group, tags)
    turns = [Message(_role(role), content) for role, content in judgement.turns]
    return Conversation((*turns, Message("assistant", judgement.value)), origin, (), judgement.group, tags)


def settle(judgements: Iterable[Judgement], ledger: Ledger, file: str) -> list[Judgement]:
    """One judgement per task: what most people said. A tie between different values is refused by the ledger (a third
    person has to decide); of equal values the earliest stands, naming all who said it."""
    by_task: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        by_task[judgement.task].append(judgement)
    settled = []
    for place, said in enumerate(by_task.values(), start=1):
        ranked = Counter(one.value for one in said).most_common(2)
        if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
            values = " / ".join(sorted({one.value[:40] for one in said}))
            for _ in said:
                ledger.revoke(file, place, "label_tie", task=said[0].task, values=values)
            continue
        agreeing = [one for one in said if one.value == ranked[0][0]]
        first = agreeing[0]
        who = ", ".join(dict.fromkeys(one.who for one in agreeing if one.who))
        settled.append(
            Judgement(first.task, first.value, first.text, first.turns, who, first.when, first.group, first.choices)
        )
    return settled


def _role(name: str) -> Role:
    return next((role for role in ROLES if role == name), "user")


def turns_of(told: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The conversation that a tool's task or result shows, () where it shows none."""
    turns = told.get("turns")
    if not isinstance(turns, list | tuple):
        return ()
    return tuple(
        (str(turn.get("role", "user")), str(turn.get("content", ""))) for turn in turns if isinstance(turn, Mapping)
    )
