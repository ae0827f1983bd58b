"""Personal data in a text replaced by the name of its kind, by the data furnace's detectors: `<MOBILE>`, `<手机号>`.

Detectors are no proof: what they overlook stays.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection
from typing import Any

from danlu.data.privacy.fakes import type_token
from danlu.data.privacy.finding import Finding
from danlu.data.privacy.scan import Scanner
from danlu.data.privacy.structured import kept_valid


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
        found = self.found(text)
        if counts is not None:
            counts.update(one.kind for one in found)
        return kept_valid(text, [(one.start, one.end, type_token(one.kind, text)) for one in found])

    def all_of(self, value: Any, counts: Counter[str] | None = None, *, spared: Collection[str] = ()) -> Any:
        """The same for every text in a JSON value; names of members stay, and so does what stands in a spared one."""
        match value:
            case str():
                return self(value, counts)
            case dict():
                return {
                    name: inner if name in spared else self.all_of(inner, counts, spared=spared)
                    for name, inner in value.items()
                }
            case list() | tuple():
                return [self.all_of(inner, counts, spared=spared) for inner in value]
            case _:
                return value
