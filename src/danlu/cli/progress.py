"""A work's progress as plain lines, for pipes and logs; and the list of bars that are shown (`terminal.Bar`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from danlu.cli.lines import visible
from danlu.core.files import printable
from danlu.core.messages import current_language, load_room, say


class Shown(Protocol):
    def finish(self) -> None: ...


shown: set[Shown] = set()
"""Bars on the terminal now."""


def stop_bars() -> None:
    """Give the terminal its cursor back, whatever stopped us in the middle of a bar."""
    for bar in list(shown):
        bar.finish()


def write(stream: TextIO, text: str, end: str = "\n") -> None:
    stream.write(visible(printable(text)) + end)
    stream.flush()


class Lines:
    """Plain lines for pipes and logs: one at the start, one every ten seconds, one at the end."""

    EVERY_S = 10.0

    def __init__(self, *, silent: bool) -> None:
        self.silent = silent
        self.what, self.done = "", 0
        self.total: int | None = None
        self.began = self.told = 0.0
        self.facts: dict[str, Any] = {}

    def start(self, what: str, total: int | None = None) -> None:
        self.finish()
        self.what, self.total, self.done, self.facts = what, total, 0, {}
        self.began = self.told = time.monotonic()
        self._line(f"{what} ...")

    def advance(self, steps: int = 1, **facts: Any) -> None:
        self.done += steps
        self.facts = facts or self.facts
        if time.monotonic() - self.told >= self.EVERY_S:
            self.told = time.monotonic()
            of = f"/{self.total}" if self.total else ""
            self._line(f"{self.what}: {self.done}{of}  {facts_text(self.facts)}")

    def finish(self) -> None:
        if self.what:
            self._line(f"{self.what}: {self.done} · {time.monotonic() - self.began:.1f} s  {facts_text(self.facts)}")
            self.what = ""

    def note(self, sentence: str) -> None:
        self._line(sentence)

    def _line(self, text: str) -> None:
        if not self.silent:
            write(sys.stderr, text.rstrip())


def facts_text(facts: Mapping[str, Any]) -> str:
    """`loss 1.234 · tokens/s 3,210`."""
    told = (f"{_word(name)} {_figure(value)}" for name, value in facts.items() if value is not None)
    return visible(" · ".join(told))


def _word(name: str) -> str:
    """A fact's name in the reader's language; names that methods of other packages bring stay as they are."""
    known = f"progress_{name}" in load_room("cli", current_language())
    return say(f"cli.progress_{name}") if known else name.replace("_per_", "/")


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
