"""Texts with something put in place of findings; a text that is JSON stays JSON.

A number that becomes a token has to become a string: `{"tel": 13920126705}` is `{"tel": "<MOBILE>"}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import orjson

Put: TypeAlias = tuple[int, int, str]
"""(start, end, what stands there from now on), in order, apart."""


def kept_valid(text: str, puts: Sequence[Put]) -> str:
    """The text with all of it put in."""
    plain = _with(text, puts)
    if text.lstrip()[:1] not in ("{", "["):
        return plain
    lines = text.splitlines(keepends=True)
    if _is_json(text):
        return plain if _is_json(plain) else _as_json(text, puts)
    if not all(_is_json(line) for line in lines if line.strip()):
        return plain
    begins = [0]  # JSON Lines
    for line in lines:
        begins.append(begins[-1] + len(line))
    return "".join(
        kept_valid(line, [(a - low, b - low, put) for a, b, put in puts if low <= a < high])
        for line, (low, high) in zip(lines, pairwise(begins), strict=True)
    )


def _with(text: str, puts: Sequence[Put]) -> str:
    parts, end = [], 0
    for start, stop, put in puts:
        parts += [text[end:start], put]
        end = stop
    return "".join([*parts, text[end:]])


def _as_json(text: str, puts: Sequence[Put]) -> str:
    """Numbers become strings, and what lies in a string is escaped; where even that breaks, the whole is one string."""
    quoted = []
    for start, stop, put in puts:
        inside = _is_in_string(text, start)
        while not inside and start and (text[start - 1].isalnum() or text[start - 1] in "+-."):
            start -= 1
        while not inside and stop < len(text) and (text[stop].isalnum() or text[stop] in "+-."):
            stop += 1
        whole = orjson.dumps(put).decode()
        quoted.append((start, stop, whole[1:-1] if inside else whole))
    made = _with(text, quoted)
    return made if _is_json(made) else orjson.dumps(_with(text, puts)).decode()


def _is_in_string(text: str, at: int) -> bool:
    is_inside = is_escaped = False
    for letter in text[:at]:
        if is_escaped:
            is_escaped = False
        elif letter == "\\":
            is_escaped = True
        elif letter == '"':
            is_inside = not is_inside
    return is_inside


def _is_json(text: str) -> bool:
    try:
        read: Any = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return False
    return isinstance(read, dict | list)
