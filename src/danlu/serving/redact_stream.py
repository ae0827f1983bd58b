"""Masking an answer while it streams. A value may come in any number of pieces, so the end of a text is held back until
what is in it can be told: as long as a value may still be growing there.

Held are the last 128 characters, or what came after the end of a sentence or a line if that is less; and with them a
word, a number or a finding that reaches into them, whole, of at most 8,192 characters. So a client sees a sentence when
it is at its end. Arguments of a call come whole, when the call is. Of a stream that breaks what was held is not sent.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from danlu.data.privacy.fakes import is_chinese, type_token
from danlu.data.privacy.finding import Finding
from danlu.openai.sse import data_of, decoded, event_of, events
from danlu.serving.events import Events, Usage
from danlu.serving.mask import Mask

HELD = 128
MOST_HELD = 8192
CONTEXT = 160
"""Characters that went out already and are looked at again: detectors go by the words before a value."""
_ENDS = re.compile("[。！？；\n]")
"""No value goes on behind one of these, but for keys in lines, which are found by their first line."""
_READ = frozenset(("delta", "tool_calls"))
"""Members of a choice and its delta that hold more than a text and are looked through. Others (`reasoning_details`,
`logprobs` nobody asked for) would carry past us what we look for, and are emptied."""
_SOLID = re.compile(r"[A-Za-z0-9_\-+/=.@:%?&#~;\\]")


class Tail:
    """One text that comes in pieces: `feed` gives what can go out."""

    def __init__(self, mask: Mask, counts: Counter[str]) -> None:
        self._mask, self._counts = mask, counts
        self._text, self._at = "", 0
        """What is looked at, and where in it begins what is held."""

    def feed(self, piece: str, *, is_last: bool = False) -> str:
        text = self._text + piece
        if len(text) == self._at:
            return ""
        found = self._mask.found(text)
        cut = len(text) if is_last else self._cut(text, found)
        out, at, chinese = [], self._at, is_chinese(text)
        for one in found:
            if one.end <= at or one.start >= cut:
                continue
            out += [text[at : max(at, one.start)], type_token(one.kind, chinese=chinese)]
            self._counts[one.kind] += 1
            at = min(one.end, cut)
        out.append(text[at:cut])
        keep = max(0, cut - CONTEXT)
        self._text, self._at = text[keep:], cut - keep
        return "".join(out)

    def _cut(self, text: str, found: Sequence[Finding]) -> int:
        """Where what is held begins from now on."""
        length = len(text)
        ends = [one.end() for one in _ENDS.finditer(text, self._at)]
        cut = max(length - HELD, ends[-1] if ends else 0)
        if cut < length and not (ends and cut == ends[-1]):
            while cut > self._at and _SOLID.match(text, cut) and _SOLID.match(text, cut - 1):
                cut -= 1
        for one in reversed(found):
            if one.start < cut and (one.end > cut or one.end == length):
                cut = one.start
        if length - cut > MOST_HELD:
            cut = length - HELD
        return max(cut, self._at)


class RedactedEvents:
    """An engine's events (`Events`), texts masked. What is counted is counted before."""

    def __init__(self, events: Events, mask: Mask, counts: Counter[str]) -> None:
        self._events, self._mask, self._counts = events, mask, counts
        self._tails: dict[tuple[int, str], Tail] = {}
        self._calls: dict[tuple[int, int], list[str]] = {}
        """Arguments so far, by choice and call."""
        self._last: dict[str, Any] = {}

    @property
    def usage(self) -> Usage | None:
        return self._events.usage

    @property
    def fault(self) -> str:
        return self._events.fault

    @property
    def is_done(self) -> bool:
        return self._events.is_done

    @property
    def num_tokens(self) -> int:
        return self._events.num_tokens

    def feed(self, piece: bytes) -> bytes:
        return b"".join(self._event(event) for event in events(self._events.feed(piece)))

    def _event(self, event: bytes) -> bytes:
        value = decoded(event)
        if value is None:
            is_end = data_of(event) == b"[DONE]"
            return self._rest(None) + event if is_end else event
        choices = value.get("choices")
        if type(choices) is not list or not choices:
            return event
        self._last = value
        out, going = b"", []
        for choice in choices:
            taken = self._choice(choice)
            if choice.get("finish_reason"):
                out += self._rest(choice.get("index", 0))
            if taken:
                going.append(choice)
        return out + event_of(value | {"choices": going}) if going else out

    def _choice(self, choice: dict[str, Any]) -> bool:
        """Its texts replaced by what can go out of them. Whether anything is left that says something."""
        index, says = choice.get("index", 0), bool(choice.get("finish_reason"))
        delta = choice.get("delta")
        for holder in (choice, delta) if type(delta) is dict else (choice,):
            for name, text in holder.items():
                if name in ("role", "finish_reason") or type(text) is not str:
                    says = says or name == "role"
                    if name not in _READ and type(text) in (dict, list):
                        holder[name] = None
                    continue
                holder[name] = self._tail(index, name).feed(text)
                says = says or bool(holder[name])
        for call in delta.get("tool_calls") or () if type(delta) is dict else ():
            function = call.get("function") or {}
            self._calls.setdefault((index, call.get("index", 0)), []).append(function.get("arguments") or "")
            says = says or bool(call.get("id") or function.get("name"))
            if "arguments" in function:
                function["arguments"] = ""
        return says

    def _rest(self, index: int | None) -> bytes:
        """What is held of a choice, or of all."""
        out = b""
        for (of, name), tail in self._tails.items():
            if index in (None, of) and (text := tail.feed("", is_last=True)):
                out += self._said(of, {name: text})
        for of, number in [place for place in self._calls if index in (None, place[0])]:
            arguments = self._mask("".join(self._calls.pop((of, number))), self._counts)
            out += self._said(of, {"tool_calls": [{"index": number, "function": {"arguments": arguments}}]})
        return out

    def _said(self, index: int, delta: dict[str, Any]) -> bytes:
        choice = {"index": index, "finish_reason": None} | (delta if "text" in delta else {"delta": delta})
        return event_of({name: one for name, one in self._last.items() if name != "usage"} | {"choices": [choice]})

    def _tail(self, index: int, name: str) -> Tail:
        return self._tails.setdefault((index, name), Tail(self._mask, self._counts))
