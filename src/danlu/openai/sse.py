"""Server-sent events as bytes, the part that OpenAI's API uses: `data:` lines, an event ends with an empty line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"
_BREAK = re.compile(rb"\r?\n\r?\n|\r\r")


class BrokenError(Exception):
    """What an engine sent is no answer; the argument says why, for the log."""


class Cutter:
    """Whole events out of pieces, whatever their cuts. BrokenError for one of more than `most_bytes`."""

    __slots__ = ("_most_bytes", "rest")

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.rest = b""
        """What came of an event that is not at its end."""

    def feed(self, piece: bytes) -> bytes:
        data = self.rest + piece if self.rest else piece
        if data.endswith(b"\n\n"):
            self.rest = b""
            return data
        cut = _last_break(data)
        data, self.rest = data[:cut], data[cut:]
        if len(self.rest) > self._most_bytes:
            raise BrokenError("an event that does not end")
        return data


def events(data: bytes) -> Iterator[bytes]:
    """One by one, their empty lines included; what is not at its end is left out."""
    start = 0
    for end in _ends(data):
        yield data[start:end]
        start = end


def data_of(event: bytes) -> bytes:
    """What its `data:` lines say together; nothing for comments and names."""
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines).strip()


def decoded(event: bytes) -> dict[str, Any] | None:
    """The object in it; None where it holds none: a comment, `[DONE]`. BrokenError for what is no JSON object."""
    text = data_of(event)
    if not text or text == b"[DONE]":
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BrokenError("an event that is no JSON") from None
    if type(value) is not dict:
        raise BrokenError("an event that is no object")
    return value


def event_of(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _ends(data: bytes) -> Iterator[int]:
    if b"\r" in data:
        yield from (found.end() for found in _BREAK.finditer(data))
        return
    end = data.find(b"\n\n") + 2
    while end > 1:
        yield end
        end = data.find(b"\n\n", end) + 2


def _last_break(data: bytes) -> int:
    """Where the last whole event ends; 0 when there is none."""
    if b"\r" in data:
        return max(_ends(data), default=0)
    return data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
