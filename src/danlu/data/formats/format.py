"""The contract of this shelf: a format knows its own rows, turns one into a Sample, and a Sample back into one.

`write` is the exact reverse of `parse` where the format can hold the sample, and an error where it cannot: nothing is
dropped in silence. `held` is that promise, checked on each row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from danlu.data import columns
from danlu.data.rows import Changes, RowError
from danlu.data.sample import Conversation, Feedback, Origin, Sample, replace

Row = Mapping[str, Any]


class Format(Protocol):
    name: str
    parts: tuple[str, ...]
    """The parts (see `columns.NAMES`) that it reads; other short columns become tags."""

    def matches(self, row: Row) -> float:
        """0 (not mine) to 1 (surely mine), from the columns and, where they are not enough, the kind of their
        values."""
        ...

    def parse(self, row: Row, origin: Origin, changes: Changes) -> Sample:
        """The sample. What had to be touched goes into `changes`. Raises RowError with a reason a person
        understands."""
        ...

    def write(self, sample: Sample) -> dict[str, Any]:
        """A row that `parse` turns back into an equal sample. Raises RowError when this format cannot hold it."""
        ...


class Plan(NamedTuple):
    """`make` is a short way to the very sample that `parse` gives, where nothing has to be changed or refused; it gives
    None for a row that has to go the long way. `spoken` names a column of turns: the sample holds all their letters."""

    make: Callable[[Row, Origin], Sample | None]
    spoken: str = ""


@runtime_checkable
class Planned(Format, Protocol):
    """A format that can look at columns once for all rows that have them."""

    def plan(self, row: Row) -> Plan | None:
        """For rows with exactly the columns of this one, in its order, and values of the same types."""
        ...


RESERVED = frozenset({"masked", "level", "level_found", "made_by", "parents", "flags", "evidence", "scores"})
"""Tags that danlu sets and goes by: whether a text may leave this machine, whose it is, what was found in it."""
_PEOPLE = ("human", "functions")
"""Who may be named as maker: their rows are examined like all others."""
_CLOSED = ("internal", "confidential", "restricted")
"""Levels that a file may claim for its rows, for they only close them."""


def tags_of(row: Row, parts: tuple[str, ...]) -> dict[str, Any]:
    """Short columns beside the parts. A file cannot say what danlu has to find out: see `kept_out`."""
    tags = columns.rest(row, (*parts, "group"))
    if RESERVED.isdisjoint(tags):
        return tags
    return {name: value for name, value in tags.items() if name not in RESERVED or _may_say(name, value, tags)}


def tags_plan(row: Row, parts: tuple[str, ...]) -> Callable[[Row], dict[str, Any]] | None:
    """`tags_of` for rows with these columns; None where a column has a name of danlu's own, or states the group."""
    if not RESERVED.isdisjoint(row) or columns.find(row, "group") is not None:
        return None
    return (lambda row: columns.rest(row, named)) if columns.rest_names(row, named := (*parts, "group")) else _no_tags


def _no_tags(row: Row) -> dict[str, Any]:
    return {}


def kept_out(row: Row, sample: Sample) -> list[str]:
    """Columns of the row that became no tags because their names are danlu's own."""
    if RESERVED.isdisjoint(row):
        return []
    return sorted(name for name in RESERVED & row.keys() if row[name] not in (None, "") and name not in sample.tags)


def other_answers(row: Row, sample: Sample) -> tuple[str, list[str]] | None:
    """(the column that was taken, columns whose differing answer was not), where a row gives more than one: `answer`
    beside `output`."""
    names = columns.answers(row)
    if len(names) < 2 or not isinstance(sample, Conversation | Feedback):
        return None
    said = [turn.content for turn in sample.messages if turn.role == "assistant"][-1:]
    used = next((name for name in names if row[name] in said), None)
    left = [name for name in names if isinstance(row[name], str) and row[name].strip() and row[name] not in said]
    return (used, left) if used is not None and left else None


def _may_say(name: str, value: Any, tags: Row) -> bool:
    """A level that closes; a person or a rule of theirs as maker, and the rows that were judged."""
    match name:
        case "level":
            return value in _CLOSED
        case "made_by":
            return value in _PEOPLE
        case "parents":
            is_list = isinstance(value, list) and all(isinstance(one, str) for one in value)
            return is_list and tags.get("made_by") in _PEOPLE
    return False


def group_of(row: Row) -> str | None:
    """A group the file itself states; numbers count as names."""
    value = columns.get(row, "group")
    return str(value) if isinstance(value, str | int) and str(value) else None


def held(fmt: Format, row: dict[str, Any], sample: Sample) -> dict[str, Any]:
    """`row` with the sample's group and tags, after proof that it reads back as the same sample without a change."""
    full = {**sample.tags, **row, **({"group": sample.group} if sample.group is not None else {})}
    changes: Changes = []
    try:
        back = fmt.parse(full, sample.origin, changes)
    except RowError as error:
        raise RowError("cannot_hold", format=fmt.name, what=error.text) from error
    if changes or back != replace(sample, origin=back.origin):
        raise RowError("cannot_hold", format=fmt.name, what=_difference(sample, back))
    return full


def _difference(sample: Sample, back: Sample) -> str:
    """The first field that would be lost."""
    if sample.kind != back.kind:
        return sample.kind
    names = [name for name in sample.__dataclass_fields__ if getattr(sample, name) != getattr(back, name, None)]
    return ", ".join(names) or sample.kind
