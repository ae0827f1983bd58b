"""Personal data in a text replaced by the name of its kind, by the data furnace's detectors: `<MOBILE>`, `<手机号>`.

Detectors are no proof: what they overlook stays.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Collection
from typing import Any

from danlu.data.privacy.fakes import is_chinese, type_token
from danlu.data.privacy.finding import Finding
from danlu.data.privacy.scan import Scanner
from danlu.data.privacy.structured import kept_valid

_WRITTEN = frozenset("@.-_+:/ ，、。：（）")
"""Beside letters and digits what values and the words before them are written with."""
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|.)", re.DOTALL)


class Mask:
    """`Mask()(text)`, from any thread. Loads the detectors when first asked; `counts` is told how many of each kind."""

    def __init__(self) -> None:
        self._scanner: Scanner | None = None
        self._turn = threading.Lock()

    def found(self, text: str) -> list[Finding]:
        """What is personal in it, in order, apart."""
        with self._turn:
            if self._scanner is None:
                self._scanner = Scanner()
        (found,) = self._scanner.scan([text])
        return found

    def __call__(self, text: str, counts: Counter[str] | None = None) -> str:
        plain = _unescaped(text)
        found = self.found(plain)
        if not found:
            return text
        if counts is not None:
            counts.update(one.kind for one in found)
        chinese = is_chinese(plain)
        return kept_valid(plain, [(one.start, one.end, type_token(one.kind, chinese=chinese)) for one in found])

    def all_of(self, value: Any, counts: Counter[str] | None = None, *, spared: Collection[str] = ()) -> Any:
        """The same for every text in a JSON value; names of members stay, and so do texts in a spared
        one."""
        match value:
            case str():
                return self(value, counts)
            case dict():
                return {
                    name: inner
                    if name in spared and type(inner) is not dict
                    else self.all_of(inner, counts, spared=spared)
                    for name, inner in value.items()
                }
            case list() | tuple():
                return [self.all_of(inner, counts, spared=spared) for inner in value]
            case _:
                return value


def _unescaped(text: str) -> str:
    """JSON with its letters and digits as they are: `\\u5f20` is what many a library writes for 张."""
    if "\\u" not in text or text.lstrip()[:1] not in ("{", "["):
        return text
    return _ESCAPE.sub(_letter, text)


def _letter(escape: re.Match[str]) -> str:
    letter = chr(int(escape[1], 16)) if escape[1] else ""
    return letter if letter.isalnum() or letter in _WRITTEN else escape[0]
