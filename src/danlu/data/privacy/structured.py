"""Texts with something put in place of findings; a text that is JSON stays JSON.

A number that becomes a token has to become a string: `{"tel": 13920126705}` is `{"tel": "<MOBILE>"}`.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, TypeAlias

import orjson

Put: TypeAlias = tuple[int, int, str]
"""(start, end, what stands there from now on), in order, apart."""
_QUOTE = re.compile(r'\\.|"', re.DOTALL)
"""A quote, or what is escaped."""


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
    made, low, first = [], 0, 0  # JSON Lines
    for line in lines:
        last = bisect.bisect_left(puts, low + len(line), lo=first, key=itemgetter(0))
        made.append(kept_valid(line, [(a - low, b - low, put) for a, b, put in puts[first:last]]))
        low, first = low + len(line), last
    return "".join(made)


def _with(text: str, puts: Sequence[Put]) -> str:
    parts, end = [], 0
    for start, stop, put in puts:
        parts += [text[end:start], put]
        end = stop
    return "".join([*parts, text[end:]])


def _as_json(text: str, puts: Sequence[Put]) -> str:
    """Numbers become strings, and what lies in a string is escaped; where even that breaks, the whole is one string."""
    quoted, inside, seen = [], False, 0
    for start, stop, put in puts:
        inside, seen = inside ^ _crosses_quote(text, seen, start), start
        while not inside and start and (text[start - 1].isalnum() or text[start - 1] in "+-."):
            start -= 1
        while not inside and stop < len(text) and (text[stop].isalnum() or text[stop] in "+-."):
            stop += 1
        whole = orjson.dumps(put).decode()
        quoted.append((start, stop, whole[1:-1] if inside else whole))
    made = _with(text, quoted)
    return made if _is_json(made) else orjson.dumps(_with(text, puts)).decode()


def _crosses_quote(text: str, low: int, high: int) -> bool:
    """Whether a string of the JSON text is entered or left between two places outside of its escapes, an odd number of
    times."""
    crosses, at = False, low
    while at < high and (found := _QUOTE.search(text, at, high)) is not None:
        crosses ^= found[0] == '"'
        at = found.end()
    return crosses


def _is_json(text: str) -> bool:
    try:
        read: Any = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return False
    return isinstance(read, dict | list)
