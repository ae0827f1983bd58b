"""Personal data in a text replaced by the name of its kind, by the data furnace's detectors: `<MOBILE>`, `<手机号>`.

A text is looked through as it is written and as it is read (as_read.py); texts in parts of one message also as the one
text that a template makes of them, and a speaker's turns where a value may go on from one to the
next. Detectors are no proof: what they overlook stays.
"""

from __future__ import annotations

import bisect
import itertools
import re
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from danlu.data.privacy.fakes import is_chinese, type_token
from danlu.data.privacy.finding import Finding
from danlu.data.privacy.scan import Effort, Scanner
from danlu.data.privacy.structured import Put, kept_valid
from danlu.serving.as_read import as_read, goes_on

_WRITTEN = frozenset("@.-_+:/ ，、。：（）")
"""Beside letters and digits what values and the words before them are written with."""
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|.)", re.DOTALL)


class Mask:
    """`Mask()(text)`, from any thread. Loads the detectors when first asked; `counts` is told how many of each kind,
    and `effort` is what all texts of one request may cost (`SpentError`)."""

    def __init__(self) -> None:
        self._scanner: Scanner | None = None
        self._turn = threading.Lock()

    def found(self, text: str, effort: Effort | None = None) -> list[Finding]:
        """What is personal in it, in order, apart."""
        with self._turn:
            if self._scanner is None:
                self._scanner = Scanner()
        (found,) = self._scanner.scan([text], effort)
        read = as_read(text)
        if read is None:
            return found
        for one in self._scanner.scan([read.text], effort)[0]:
            start, end = read.span(one.start, one.end)
            found.append(one._replace(start=start, end=end))
        return joined(found)

    def __call__(self, text: str, counts: Counter[str] | None = None, effort: Effort | None = None) -> str:
        return self.parts([text], counts, effort)[0]

    def parts(
        self, texts: Sequence[str], counts: Counter[str] | None = None, effort: Effort | None = None
    ) -> list[str]:
        """Texts that an engine reads as one. A value over several stands as its kind in the first and is gone from the
        others."""
        plain = [_unescaped(text) for text in texts]
        begins = list(itertools.accumulate(map(len, plain), initial=0))
        found = [
            one._replace(start=one.start + begin, end=one.end + begin)
            for begin, text in zip(begins, plain, strict=False)
            for one in self.found(text, effort)
        ]
        whole = plain[0] if len(plain) == 1 else "".join(plain)
        if len(plain) > 1:
            inner = begins[1:-1]
            over = self.found(whole, effort)
            found = joined([*found, *(one for one in over if _crosses(one, inner))])
        if not found:
            return list(texts)
        if counts is not None:
            counts.update(one.kind for one in found)
        puts = _spread(found, begins, chinese=is_chinese(whole))
        return [
            kept_valid(text, put) if put else written for written, text, put in zip(texts, plain, puts, strict=True)
        ]

    def turns(
        self, texts: Sequence[str], counts: Counter[str] | None = None, effort: Effort | None = None
    ) -> list[str]:
        """What one speaker said in several turns, where a value may go on from one to the next; values within a turn
        are masked already."""
        masked = list(texts)
        first = 0
        for last in range(1, len(texts) + 1):
            if last < len(texts) and goes_on(texts[last - 1], texts[last]):
                continue
            if last - first > 1:
                bare = [text.strip() for text in texts[first:last]]
                parts = self.parts(bare, counts, effort)
                masked[first:last] = [
                    text.replace(old, new, 1) for text, old, new in zip(texts[first:last], bare, parts, strict=True)
                ]
            first = last
        return masked

    def all_of(
        self,
        value: Any,
        counts: Counter[str] | None = None,
        *,
        spared: Collection[str] = (),
        effort: Effort | None = None,
    ) -> Any:
        """The same for every text in a JSON value; names of members stay, and so do texts in a spared
        one."""
        match value:
            case str():
                return self(value, counts, effort)
            case dict():
                return {
                    name: inner
                    if name in spared and type(inner) is not dict
                    else self.all_of(inner, counts, spared=spared, effort=effort)
                    for name, inner in value.items()
                }
            case list() | tuple() if len(value) > 1 and all(map(_is_part, value)):
                texts = self.parts([part["text"] for part in value], counts, effort)
                rest = ({name: inner for name, inner in part.items() if name != "text"} for part in value)
                return [
                    {**self.all_of(more, counts, spared=spared, effort=effort), "text": text}
                    for more, text in zip(rest, texts, strict=True)
                ]
            case list() | tuple():
                return [self.all_of(inner, counts, spared=spared, effort=effort) for inner in value]
            case _:
                return value


def joined(found: Sequence[Finding]) -> list[Finding]:
    """Findings in order, apart: where some overlap, one over all of them, of the kind of the longest."""
    made: list[Finding] = []
    longest = 0
    for one in sorted(found, key=lambda one: (one.start, -one.end)):
        if not made or one.start >= made[-1].end:
            made.append(one)
            longest = one.end - one.start
            continue
        last = made[-1]
        kind = one.kind if one.end - one.start > longest else last.kind
        longest = max(longest, one.end - one.start)
        made[-1] = last._replace(end=max(last.end, one.end), kind=kind)
    return made


def _is_part(value: Any) -> bool:
    return type(value) is dict and type(value.get("text")) is str


def _crosses(one: Finding, bounds: Sequence[int]) -> bool:
    return bisect.bisect_right(bounds, one.start) != bisect.bisect_left(bounds, one.end)


def _spread(found: Sequence[Finding], begins: Sequence[int], *, chinese: bool) -> list[list[Put]]:
    """What is put into each part."""
    puts: list[list[Put]] = [[] for _ in begins[1:]]
    for one in found:
        token = type_token(one.kind, chinese=chinese)
        part = bisect.bisect_right(begins, one.start) - 1
        while part < len(puts) and begins[part] < one.end:
            begin, end = begins[part], begins[part + 1]
            if end > begin:
                puts[part].append((max(0, one.start - begin), min(one.end, end) - begin, token))
                token = ""
            part += 1
    return puts


def _unescaped(text: str) -> str:
    """JSON with its letters and digits as they are: `\\u5f20` is what many a library writes for 张."""
    if "\\u" not in text or text.lstrip()[:1] not in ("{", "["):
        return text
    return _ESCAPE.sub(_letter, text)


def _letter(escape: re.Match[str]) -> str:
    letter = chr(int(escape[1], 16)) if escape[1] else ""
    return letter if letter.isalnum() or letter in _WRITTEN else escape[0]
