"""A stream of events on its way through, as bytes: whole events are passed on, and only what must be is looked at.

Pure: pieces in, pieces out, whatever their cuts. From the first event it learns what stands in all of them: the
engine's own id and model name, in whose place ours go, and what OpenAI's API has not, which is taken out. Events with a
reason to end, or with usage, are read and written anew. So what an engine tells of itself (llama.cpp's `timings`) stays
here.

None of the patterns can occur inside a JSON string, where a quote is always escaped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from danlu.openai.sse import BrokenError, Cutter, data_of, decoded, event_of, events

_USAGE = re.compile(rb'"usage":\s*\{')
_PROMPT = re.compile(rb'"prompt_tokens":\s*([0-9]{1,9})(?![0-9])')
_ANSWER = re.compile(rb'"completion_tokens":\s*([0-9]{1,9})(?![0-9])')
_USAGE_PART = re.compile(
    rb',\s*"usage":\s*\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|"usage":\s*\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\},\s*'
)
_UNFINISHED = re.compile(rb'"finish_reason":\s*null')
_MARKS = (b'data: {"', b'data:{"')
"""How an event with JSON begins, in an engine's way of writing it."""
ANSWER = frozenset(("id", "object", "created", "model", "choices", "usage", "data"))
CHOICE = frozenset(("index", "message", "delta", "text", "logprobs", "finish_reason"))
"""What clients get of an answer and of a choice; `system_fingerprint` would tell them the engine and its version."""


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


def usage_in(value: dict[str, Any]) -> Usage | None:
    """The usage of a whole answer; None where it has none that can be counted with."""
    told = value.get("usage")
    prompt = told.get("prompt_tokens") if type(told) is dict else None
    if type(told) is not dict or type(prompt) is not int or prompt < 0:
        return None
    answer = told.get("completion_tokens")
    return Usage(prompt, answer if type(answer) is int and answer > 0 else 0)


def cleaned(value: dict[str, Any], id: str, model: str) -> dict[str, Any]:
    """An engine's answer, or event, under our names and without what OpenAI's API has not."""
    kept = {name: one for name, one in value.items() if name in ANSWER}
    kept["model"] = model
    choices = kept.get("choices")
    if type(choices) is list:
        kept["id"] = id
        kept["choices"] = [_choice(one) if type(one) is dict else one for one in choices]
    return kept


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    return choice if choice.keys() <= CHOICE else {name: one for name, one in choice.items() if name in CHOICE}


class Events:
    """One stream. `feed` gives what can go on now."""

    __slots__ = (
        "_cutter", "_id", "_is_running", "_kept", "_mark", "_model", "_odd", "_pairs", "_wants_usage", "fault",
        "is_done", "num_tokens",
    )  # fmt: skip

    def __init__(self, id: str, model: str, *, wants_usage: bool, most_bytes: int) -> None:
        self._id, self._model, self._wants_usage = id, model, wants_usage
        self._cutter = Cutter(most_bytes)
        self._pairs: tuple[tuple[bytes, bytes], ...] | None = None
        self._odd: re.Pattern[bytes] | None = None
        """Keys that OpenAI has not: where one is left, it says something else each time, and is read out."""
        self._kept = b""
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
        """What the client gets of it: whole events. BrokenError when one never ends, or is none at all."""
        cutter = self._cutter
        data = piece if not cutter.rest and piece.endswith(b"\n\n") else cutter.feed(piece)
        if not data:
            return b""
        if self._pairs is None:
            self._learn(data)
        for old, new in self._pairs or ():
            data = data.replace(old, new)
        if b"[DONE]" in data or b'{"error"' in data:
            data = self._until_end(data)
        self.num_tokens += data.count(self._mark)
        if (
            b'"usage"' in data or b'"finish_reason":"' in data or b'"finish_reason": "' in data or b'"timings"' in data
            or (self._odd is not None and self._odd.search(data) is not None)
        ):  # fmt: skip
            return b"".join(map(self._looked_at, events(data)))
        return data

    def _looked_at(self, event: bytes) -> bytes:
        """Usage goes where OpenAI has it, and nowhere else: to the end, for those who asked. Engines that tell it in
        every event (so that a stream can be settled wherever it ends) would make clients add it up."""
        has_usage = b'"usage"' in event and _USAGE.search(event) is not None
        if has_usage:
            self._kept = event
        is_unfinished = _UNFINISHED.search(event) is not None
        if is_unfinished:
            self._is_running = self._is_running or has_usage
            if self._odd is None or self._odd.search(event) is None:
                return _less_usage(event) if has_usage else event
        value = decoded(event)
        if value is None:
            return event
        value = cleaned(value, self._id, self._model)
        if not value.get("choices"):
            return event_of(value) if self._wants_usage or not has_usage else b""
        if self._is_running or is_unfinished or not self._wants_usage:
            value.pop("usage", None)
        return event_of(value)

    def _learn(self, data: bytes) -> None:
        """From the first event that is one."""
        for event in events(data):
            value = decoded(event)
            if value is not None:
                if "error" in value and "choices" not in value:
                    raise BrokenError(str(value["error"])[:200])
                names = {"id": self._id, "model": self._model}
                pairs = [*_renamed(value, names), *_left_out(value)]
                self._pairs = tuple(pair for pair in pairs if pair[0] in data)
                self._odd = _varying(value)
                self._mark = next((mark for mark in _MARKS if mark in data), _MARKS[0])
                self.num_tokens = 0 if _has_token(value) else -1  # chat begins with the role alone
                return

    def _until_end(self, data: bytes) -> bytes:
        """`[DONE]` ends a stream when it is an event, not when it is text; so does an error."""
        passed = 0
        for event in events(data):
            text = data_of(event)
            self.is_done = text == b"[DONE]"
            if text.startswith(b'{"error"'):
                self.fault = text[:300].decode(errors="replace")
            if self.is_done or self.fault:
                self._cutter.rest = b""
                self.num_tokens -= self.is_done  # the event with the reason
                return data[: passed + len(event) if self.is_done else passed]
            passed += len(event)
        return data


def _renamed(value: dict[str, Any], ours: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """What to replace in all events, both ways of writing JSON: the engine's own id and model by ours."""
    pairs: list[tuple[bytes, bytes]] = []
    for name, new in ours.items():
        theirs = value.get(name)
        if type(theirs) is str and theirs and theirs != new:
            for key in (f'"{name}":'.encode(), f'"{name}": '.encode()):
                pairs.append((key + orjson.dumps(theirs), key + orjson.dumps(new)))
    return pairs


def _left_out(value: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    """What to take out of all events: fields that OpenAI has not and that say the same each time. No numbers: 12 is the
    beginning of 123."""
    pairs = []
    for box, known in _boxes(value):
        for name, said in box.items():
            if name not in known and (said is None or type(said) in (bool, str)):
                close = f'"{name}":'.encode() + orjson.dumps(said)
                wide = f'"{name}": '.encode() + orjson.dumps(said)
                pairs += [(b"," + close, b""), (close + b",", b""), (b", " + wide, b""), (wide + b", ", b"")]
    return pairs


def _varying(value: dict[str, Any]) -> re.Pattern[bytes] | None:
    """Keys that OpenAI has not, whatever they say at first: what is null in the event with the role (vLLM's
    `token_ids`) is a list in the next."""
    odd = {name for box, known in _boxes(value) for name in box if name not in known}
    return re.compile(b"|".join(b'"%b":' % re.escape(name.encode()) for name in sorted(odd))) if odd else None


def _boxes(value: dict[str, Any]) -> list[tuple[dict[str, Any], frozenset[str]]]:
    """An event and its choices, each with what OpenAI has of it."""
    choices = value.get("choices")
    inner = [one for one in choices if type(one) is dict] if type(choices) is list else []
    return [(value, ANSWER), *((one, CHOICE) for one in inner)]


def _less_usage(event: bytes) -> bytes:
    start = event.find(b',"usage":{')
    end = event.find(b"}", start)
    if start < 0 or event.find(b"{", start + 10, end) >= 0:  # written in another way, or with details
        return _USAGE_PART.sub(b"", event)
    return event[:start] + event[end + 1 :]


def _has_token(value: dict[str, Any]) -> bool:
    choices = value.get("choices")
    first = choices[0] if type(choices) is list and choices and type(choices[0]) is dict else {}
    delta = first.get("delta")
    return bool(first.get("text") or (type(delta) is dict and (delta.get("content") or delta.get("tool_calls"))))
