"""Rows that hold a whole conversation as a list of turns, whatever the turns' own keys: what two formats share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from danlu.data import columns, turns
from danlu.data.calls import tools_of
from danlu.data.formats.format import Row, group_of, tags_of
from danlu.data.rows import Changes
from danlu.data.sample import Conversation, Origin


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
