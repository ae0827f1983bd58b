"""Server-sent events on their way through, as bytes: whole events are passed on, and only what must be is looked at.

Pure: pieces in, pieces out, whatever their cuts. It learns the engine's own id and model name from the first event and
writes ours in their place; it keeps the usage, and takes its chunk out where the client had not asked for it.

None of the patterns can occur inside a JSON string, where a quote is always escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

_USAGE = re.compile(rb'"usage":\s*\{')
_PROMPT = re.compile(rb'"prompt_tokens":\s*([0-9]{1,9})(?![0-9])')
_ANSWER = re.compile(rb'"completion_tokens":\s*([0-9]{1,9})(?![0-9])')
_USAGE_PART = re.compile(
    rb',\s*"usage":\s*\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|"usage":\s*\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\},\s*'
)
_NO_CHOICE = re.compile(rb'"choices":\s*\[\s*\]')
_UNFINISHED = re.compile(rb'"finish_reason":\s*null')
_BREAK = re.compile(rb"\r?\n\r?\n|\r\r")
_MARKS = (b'data: {"', b'data:{"')
"""How an event with JSON begins, in an engine's way of writing it."""


class BrokenError(Exception):
    """What the engine sent is no answer; the argument says why, for the log."""


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    answer_tokens: int


def usage_of(data: bytes) -> Usage | None:
    """The last usage in `data`: a JSON answer, or events. None where there is none."""
    start = -1
    for found in _USAGE.finditer(data):
        start = found.start()
    if start < 0:
        return None
    prompt, answer = _PROMPT.search(data, start), _ANSWER.search(data, start)
    if prompt is None:
        return None
    return Usage(int(prompt[1]), int(answer[1]) if answer else 0)  # embeddings have a prompt only


def renamer(value: dict[str, object], id: str, model: str) -> tuple[tuple[bytes, bytes], ...]:
    """What to replace in an answer's bytes, both ways of writing JSON: the engine's own id and model by ours."""
    pairs: list[tuple[bytes, bytes]] = []
    for name, ours in (("id", id), ("model", model)):
        theirs = value.get(name)
        if type(theirs) is str and theirs and theirs != ours:
            key, old, new = f'"{name}":'.encode(), orjson.dumps(theirs), orjson.dumps(ours)
            pairs += [(key + old, key + new), (key + b" " + old, key + b" " + new)]
    return tuple(pairs)


class Events:
    """One stream. `feed` gives what can go on now; `end` says whether it was whole."""

    __slots__ = (
        "_id", "_is_running", "_kept", "_mark", "_model", "_most_bytes", "_pairs", "_rest", "_wants_usage", "fault",
        "is_done", "num_tokens",
    )  # fmt: skip

    def __init__(self, id: str, model: str, *, wants_usage: bool, most_bytes: int) -> None:
        self._id, self._model, self._wants_usage, self._most_bytes = id, model, wants_usage, most_bytes
        self._pairs: tuple[tuple[bytes, bytes], ...] | None = None
        self._rest = self._kept = b""
        self._mark = _MARKS[0]
        self._is_running = False
        """Usage comes beside choices before the end, so an event of its own follows at the end."""
        self.is_done = False
        """`[DONE]` was seen; nothing that follows is passed on."""
        self.fault = ""
        """What the engine itself said went wrong, once the answer had begun; its event is kept from the client."""
        self.num_tokens = 0
        """Counted, an event each; the engine's usage is better where there is one."""

    @property
    def usage(self) -> Usage | None:
        return usage_of(self._kept)

    def feed(self, piece: bytes) -> bytes:
        """What the client gets of it: whole events. BrokenError when one never ends."""
        data = self._rest + piece if self._rest else piece
        if data.endswith(b"\n\n"):
            self._rest = b""
        else:
            cut = _last_break(data)
            data, self._rest = data[:cut], data[cut:]
            if len(self._rest) > self._most_bytes:
                raise BrokenError("an event that does not end")
            if not data:
                return b""
        if self._pairs is None:
            self._learn(data)
        for old, new in self._pairs or ():
            data = data.replace(old, new)
        if b"[DONE]" in data or b'{"error"' in data:
            data = self._until_end(data)
        self.num_tokens += data.count(self._mark)
        if b'"usage"' in data and _USAGE.search(data):
            self._kept = data
            data = self._without_usage(data)
        return data

    def _without_usage(self, data: bytes) -> bytes:
        """`data` with usage where OpenAI has it, and nowhere else: at the end, for those who asked. Engines that tell
        it in every event (so that a stream can be settled wherever it ends) would make clients add it up."""
        kept, start = [], 0
        for end in _ends(data):
            event, start = data[start:end], end
            if b'"usage"' in event and _USAGE.search(event):
                if _NO_CHOICE.search(event):
                    event = event if self._wants_usage else b""
                else:
                    self._is_running = self._is_running or _UNFINISHED.search(event) is not None
                    if self._is_running or not self._wants_usage:
                        event = _less_usage(event)
            kept.append(event)
        return b"".join(kept)

    def _learn(self, data: bytes) -> None:
        """From the first event that is one."""
        start = 0
        for end in _ends(data):
            value, start = _decoded(data[start:end]), end
            if value is not None:
                if "error" in value and "choices" not in value:
                    raise BrokenError(str(value["error"])[:200])
                self._pairs = tuple(pair for pair in renamer(value, self._id, self._model) if pair[0] in data)
                self._mark = next((mark for mark in _MARKS if mark in data), _MARKS[0])
                self.num_tokens = 0 if _has_token(value) else -1  # chat begins with the role alone
                return

    def _until_end(self, data: bytes) -> bytes:
        """`[DONE]` ends a stream when it is an event, not when it is text; so does an error."""
        start = 0
        for end in _ends(data):
            line = data[start:end].strip()
            text = line[5:].strip() if line.startswith(b"data:") else b""
            self.is_done = text == b"[DONE]"
            if text.startswith(b'{"error"'):
                self.fault = text[:300].decode(errors="replace")
            if self.is_done or self.fault:
                self._rest = b""
                self.num_tokens -= self.is_done  # the event with the reason
                return data[: end if self.is_done else start]
            start = end
        return data


def _less_usage(event: bytes) -> bytes:
    start = event.find(b',"usage":{')
    end = event.find(b"}", start)
    if start < 0 or event.find(b"{", start + 10, end) >= 0:  # written in another way, or with details
        return _USAGE_PART.sub(b"", event)
    return event[:start] + event[end + 1 :]


def _ends(data: bytes) -> Iterator[int]:
    """Where events end."""
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


def _has_token(value: dict[str, object]) -> bool:
    choices = value.get("choices")
    first = choices[0] if type(choices) is list and choices and type(choices[0]) is dict else {}
    delta = first.get("delta")
    return bool(first.get("text") or (type(delta) is dict and (delta.get("content") or delta.get("tool_calls"))))


def _decoded(event: bytes) -> dict[str, object] | None:
    lines = event.splitlines()
    text = b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
    if not text or text.strip() == b"[DONE]":
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BrokenError("an event that is no JSON") from None
    if type(value) is not dict:
        raise BrokenError("an event that is no object")
    return value
