"""The JSON values that a text holds, one or several, mended where there is one clear meaning; what is left is a fault.

What RFC 8259 forbids but means one thing is read and said: values glued together, trailing commas, single quotes, raw
control characters. A key given twice with two values is refused, for nobody can know which was meant.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import orjson

from danlu.data.sources.source import Change, Fault, Item, Row

MAX_MENDED_CHARS = 1 << 20
DECODER = json.JSONDecoder(strict=False, object_pairs_hook=lambda pairs: _Pairs(pairs))
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
_ESCAPED_KEY = re.compile(rb'"[^"\\]{0,99}\\(?:[^"\\]|\\.){0,99}"\s*:')
_BEHIND_KEYS = (b'":', b" :", b"\t:", b"\r:", b"\n:")
"""What the colon of every key stands behind: its quote, or blanks."""
_COLON = ord(":")
_IS_BEHIND = np.isin(np.arange(256), [pair[0] for pair in _BEHIND_KEYS])
_PLAIN = frozenset({str, int, bool, type(None)})
_MUCH = 1 << 24
"""Bytes to look through, over all keys of an object, from which Python's decoder is the shorter way."""
_TRAILING_COMMA = re.compile(r",(\s*[}\]])")


class _Pairs(dict[str, Any]):
    """An object that remembers keys given twice with different values."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.twice = sorted({key for key, value in pairs if self[key] is not value and self[key] != value})


def parse_values(text: str, line: int, changes: tuple[Change, ...] = (), *, clean: bool = False) -> Iterator[Item]:
    """The value or values written in `text`, mended where there is one clear meaning; what is left becomes a fault."""
    try:
        value = orjson.loads(text)
    except (ValueError, RecursionError):
        yield from _parse_loosely(text, line, changes)
        return
    if isinstance(value, dict) and needs_care(value, text.encode()):
        yield from _parse_loosely(text, line, changes)
    else:
        yield Row(line, value, text, changes, clean=clean)


def needs_care(row: dict[str, Any], raw: bytes, num_behind_keys: int | None = None) -> bool:
    """Whether what orjson read may not be all that is written: a key may be given twice, or a whole number beyond 64
    bits (an account, a card) was read as a float. Python's decoder tells. `num_behind_keys` as `count_behind_keys` has
    it, where many lines were counted at once."""
    is_once = num_behind_keys == len(row) or raw.count(b":") == len(row)  # each key has its colon
    if not is_once and _may_be_twice(row, raw):
        return True
    if _PLAIN.issuperset(map(type, row.values())):
        return False
    return _has_float(row.values()) and _LONG_NUMBER.search(raw) is not None


def count_behind_keys(lines: Sequence[bytes]) -> list[int]:
    """For each line the colons behind a quote or a blank, as those of all keys are. As many as there are keys: all
    other colons stand within texts."""
    data = np.frombuffer(b"\n".join(lines), np.uint8)
    colons = np.flatnonzero(data == _COLON)
    colons = colons[_IS_BEHIND[data[colons - 1]]]
    ends = np.cumsum(np.fromiter(map(len, lines), np.int64, len(lines)) + 1)
    num: list[int] = np.diff(np.searchsorted(colons, ends), prepend=0).tolist()
    return num


def _may_be_twice(row: dict[str, Any], raw: bytes) -> bool:
    if sum(map(raw.count, _BEHIND_KEYS)) == len(row):  # all other colons stand within texts
        return False
    if len(row) * len(raw) > _MUCH or (b"\\" in raw and _ESCAPED_KEY.search(raw)):
        return True
    return any(raw.count(b'"%b"' % key.encode()) > 1 for key in row)


def _has_float(values: Iterable[Any]) -> bool:
    waiting = [values]  # no recursion: orjson reads deeper than Python calls
    while waiting:
        for value in waiting.pop():
            kind = type(value)
            if kind is float:
                return True
            if kind is list or kind is dict:
                waiting.append(value if kind is list else value.values())
    return False


def _parse_loosely(text: str, line: int, changes: tuple[Change, ...]) -> Iterator[Item]:
    """Python's decoder accepts control characters and half surrogates, tells of twice-given keys, and where it
    stopped."""
    position, num = 0, 0
    while position < len(text):
        try:
            value, end = DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            yield _mended(text[position:], line, changes, error)
            return
        num += 1
        glued: tuple[Change, ...] = (("values_glued", {"num": num}),) if num > 1 else ()
        twice = value.twice if isinstance(value, _Pairs) else []
        if twice:
            yield Fault(line, "duplicate_key", {"keys": ", ".join(twice)}, text[position:end])
        else:
            yield Row(line, value, text[position:end], changes + glued)
        position = end
        while position < len(text) and text[position] in " \t\r\n,\x00":
            position += 1


def _mended(text: str, line: int, changes: tuple[Change, ...], error: Exception) -> Item:
    """Trailing commas and Python-style quotes have one meaning; anything else is a fault that says where."""
    if len(text) <= MAX_MENDED_CHARS:
        without = _without_trailing_commas(text)
        if without != text:
            try:
                return Row(line, orjson.loads(without), text, (*changes, ("json_trailing_comma", {})))
            except ValueError:
                pass
        if "'" in text:
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                pass
            else:
                if isinstance(value, dict | list):
                    return Row(line, value, text, (*changes, ("json_single_quotes", {})))
    return json_fault(text, line, error)


def json_fault(text: str, line: int, error: Exception) -> Fault:
    """Cut short, or broken at a column; the excerpt shows the spot."""
    if isinstance(error, json.JSONDecodeError):
        unfinished = error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated string")
        if text[:1] in "{[" and unfinished:
            return Fault(line, "json_cut", {"end": text[-24:]}, text)
        near = text[max(0, error.pos - 12) : error.pos + 12]
        return Fault(line, "bad_json", {"column": error.pos + 1, "near": near, "detail": error.msg}, text)
    return Fault(line, "bad_json", {"column": 1, "near": text[:24], "detail": type(error).__name__}, text)


def _without_trailing_commas(text: str) -> str:
    """Commas before a closing bracket taken out, strings left alone."""
    parts = re.split(r'("(?:[^"\\]|\\.)*")', text)
    parts[::2] = [_TRAILING_COMMA.sub(r"\1", part) for part in parts[::2]]
    return "".join(parts)
