"""Rows that hold a whole conversation as a list of turns, whatever the turns' own keys: what two formats share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from danlu.data import columns, turns
from danlu.data.calls import tools_of
from danlu.data.formats.format import Plan, Row, group_of, tags_of, tags_plan
from danlu.data.rows import Changes
from danlu.data.sample import Conversation, Origin, plain_conversation


def chat_score(row: Row, places: Sequence[str], turn_key: str) -> float:
    """How surely a row is of the format whose turns have `turn_key`; `places` are the columns asked, its own first."""
    for place in places:
        value = columns.get(row, place)
        if isinstance(value, list) and value and isinstance(value[0], Mapping) and turn_key in value[0]:
            return 0.85
    return 0.5 if columns.find(row, places[0]) is not None else 0.0


def parse_chat(row: Row, places: Sequence[str], parts: Sequence[str], origin: Origin, changes: Changes) -> Conversation:
    """The conversation in the first of `places` that the row has; other columns than `parts` become tags."""
    given = next((value for place in places if (value := columns.get(row, place)) is not None), None)
    messages = turns.parse_turns(given, changes, columns.get(row, "system"))
    tools = tools_of(columns.get(row, "tools"))
    ready = turns.ordered(messages, changes)
    return Conversation(ready, origin, tools, group_of(row), tags_of(row, tuple(parts)))


def plan_chat(row: Row, places: Sequence[str], parts: Sequence[str]) -> Plan | None:
    """A short way for turns of a role and a text alone that stand in order; see `format.Planned`."""
    tags, kinds = tags_plan(row, tuple(parts)), {"system": (str, type(None)), "tools": (str, list, type(None))}
    place = next((name for part in places if (name := columns.find(row, part)) is not None), None)
    if tags is None or place is None or not isinstance(row[place], list):
        return None
    found = [(name, kind) for part, kind in kinds.items() if (name := columns.find(row, part)) is not None]
    if not all(isinstance(row[name], kind) for name, kind in found):
        return None
    idle = tuple(name for name, _ in found)

    def quick(row: Row, origin: Origin) -> Conversation | None:
        if any(row[name] for name in idle):
            return None
        messages = turns.plain_turns(row[place])
        return None if messages is None else plain_conversation(messages, origin, None, tags(row))

    return Plan(quick, place)
