"""A JSON object that is no row but holds one list of them, as interfaces answer: {"data": {"items": [...]}}.

Only the one obvious list is taken: two lists that could be rows are two readings, and then the object is refused as it
stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

MAX_DEPTH = 5
JUDGED_ROWS = 8
_DECODER = json.JSONDecoder(strict=False)
_BLANKS = " \t\r\n"


def path_to_rows(value: dict[str, Any], fits: Callable[[dict[str, Any]], bool]) -> tuple[str, ...] | None:
    """Names that lead to the only list whose first elements are rows by `fits`; None where there is none, or several,
    or where the object itself is a row."""
    if fits(value):
        return None
    found = list(_paths(value, fits, ()))
    return found[0] if len(found) == 1 else None


def _paths(
    value: dict[str, Any], fits: Callable[[dict[str, Any]], bool], before: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    for name, inner in value.items():
        if isinstance(inner, dict) and len(before) < MAX_DEPTH:
            yield from _paths(inner, fits, (*before, name))
        elif isinstance(inner, list) and inner:
            rows = [one for one in inner[:JUDGED_ROWS] if isinstance(one, dict)]
            if any(fits(one) for one in rows):
                yield (*before, name)


def at_path(value: dict[str, Any], path: tuple[str, ...]) -> list[Any]:
    """The list that the path leads to."""
    inner: Any = value
    for name in path:
        inner = inner[name]
    assert isinstance(inner, list), "a path leads to a list"
    return inner


def place_of(text: str, path: tuple[str, ...]) -> tuple[int, int] | None:
    """Where the list stands in the object's text, from bracket to behind bracket; None where the text is not plain
    JSON."""
    at = 0
    try:
        for name in path:
            at = _behind_name(text, at, name)
        return at, _DECODER.raw_decode(text, at)[1]
    except (ValueError, IndexError, RecursionError):
        return None


def _behind_name(text: str, at: int, wanted: str) -> int:
    """The place of the value of that name, in the object that begins at `at`. ValueError where there is none."""
    if text[at] != "{":
        raise ValueError(at)
    at += 1
    found: int | None = None
    while text[at := _skipped(text, at)] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _skipped(text, _skipped(text, at) + 1)  # the colon
        if name == wanted:
            found = at  # the last one of a name counts
        at = _skipped(text, _DECODER.raw_decode(text, at)[1])
        if text[at] == ",":
            at += 1
    if found is None:
        raise ValueError(wanted)
    return found


def _skipped(text: str, at: int) -> int:
    while text[at] in _BLANKS:
        at += 1
    return at
