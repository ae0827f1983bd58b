"""How long work tells of itself: whoever works calls a `Progress`; the CLI shows it, tests ignore it."""

from __future__ import annotations

from typing import Any, Protocol


class Progress(Protocol):
    """One line of work at a time: `start`, many `advance`, `finish`. `note` is for a sentence worth keeping."""

    def start(self, what: str, total: int | None = None) -> None: ...

    def advance(self, steps: int = 1, **facts: Any) -> None: ...

    def finish(self) -> None: ...

    def note(self, sentence: str) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def start(self, what: str, total: int | None = None) -> None: ...

    def advance(self, steps: int = 1, **facts: Any) -> None: ...

    def finish(self) -> None: ...

    def note(self, sentence: str) -> None: ...
