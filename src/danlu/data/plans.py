"""Rows of one shape, read by a plan: what a format settles once for columns, and the look at letters of many rows.

The plan itself is a format's (`formats/format.py`, `Planned`); who reads a file applies it (`sources/reading.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from danlu.data import columns
from danlu.data.formats.format import Format, Plan, Planned
from danlu.data.mend import SUSPECT
from danlu.data.sample import Conversation, Sample
from danlu.data.suspects import suspect_texts
from danlu.data.texts import messages_of, texts_of


def plan_of(fmt: Format, row: dict[str, Any]) -> Plan | None:
    """The format's plan for rows like this one; None where each of them has to be looked at by itself."""
    if not isinstance(fmt, Planned) or any(SUSPECT.search(name) for name in row):
        return None
    if "answer" in fmt.parts and len(columns.answers(row)) > 1:  # each row may give two that differ
        return None
    return fmt.plan(row)


def put_back_suspects(
    values: Sequence[dict[str, Any]], made: list[Sample | None], types: Sequence[type], plan: Plan
) -> int:
    """Take out the samples of rows with letters that `mend` would touch. How many letters there are in all."""
    if all(kind is str for kind in types):
        letters, per_row = list(chain.from_iterable(map(dict.values, values))), len(types)
        owners: Sequence[int] = range(0)
    else:
        own = [_letters_of(row, sample, plan.spoken) for row, sample in zip(values, made, strict=True)]
        letters, per_row = list(chain.from_iterable(own)), 0
        owners = [row for row, texts in enumerate(own) for _ in texts]
    for number in suspect_texts(letters):
        if SUSPECT.search(letters[number]):
            made[number // per_row if per_row else owners[number]] = None
    return sum(map(len, letters))


def _letters_of(row: dict[str, Any], sample: Sample | None, spoken: str) -> list[str]:
    """All strings of a row. Of turns that became a sample only what is said: the rest was known."""
    found: list[str] = []
    for name, value in row.items():
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict | list) and value:
            if name == spoken and sample is not None:
                found += [turn.content for turn in messages_of(sample)]
            else:
                found += _strings(value)
    return found


def _strings(value: Any) -> Iterator[str]:
    waiting = [value]  # no recursion: orjson reads deeper than Python calls
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            yield from one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def num_chars_of(sample: Sample) -> int:
    """About how much text it is: enough to know when a piece is full."""
    if isinstance(sample, Conversation):
        return sum([len(turn.content) for turn in sample.messages])
    return sum(map(len, texts_of(sample)))
