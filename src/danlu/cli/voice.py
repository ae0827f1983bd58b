"""How the command line speaks: people get colour and a bar, scripts get one JSON object, pipes get plain lines.

With `--json` only the result goes to standard output (its last line); everything else goes to standard error.
rich is loaded for terminals and tables only: a wrong recipe is answered before it would be there.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import orjson

from danlu.core.files import printable
from danlu.core.messages import current_language, load_room, say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

FAULT, FIX = "bold red", "yellow"


class Voice:
    """One command's way to speak. `progress` is a `danlu.core.progress.Progress`."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet

    @functools.cached_property
    def console(self) -> Console:
        """Where results for people go."""
        return _console(is_error=self.as_json)

    @functools.cached_property
    def progress(self) -> Bar | Lines:
        shows_bar = sys.stdout.isatty() and not self.quiet and not self.as_json
        return Bar(self.console) if shows_bar else Lines(silent=self.quiet)

    def say(self, text: str = "", style: str | None = None, *, end: str = "\n") -> None:
        if self.quiet:
            return
        stream = sys.stderr if self.as_json else sys.stdout
        if stream.isatty():
            self.console.print(text, style=style, markup=False, end=end)
        else:
            _write(stream, text, end)

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None, *, num_whole: int = 0
    ) -> None:
        """The first `num_whole` columns are never folded: what people copy."""
        if self.quiet:
            return
        from rich.table import Table  # slow to load; what fails prints no table

        table = Table(title=title, title_justify="left", header_style="bold", border_style="dim")
        for place, column in enumerate(columns):
            table.add_column(column, overflow="fold", no_wrap=place < num_whole)
        for row in rows:
            table.add_row(*("" if cell is None else _plain(cell) for cell in row))
        self.console.print(table)

    def result(self, value: Mapping[str, Any] | Sequence[Any]) -> None:
        """The command's answer for scripts; one line, printed only with --json."""
        if self.as_json:
            line = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS, default=str)
            sys.stdout.flush()
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()

    def fail(self, text: str, fix: str = "") -> None:
        """What went wrong and how to mend it, on standard error, also when told to be quiet."""
        for line, style in ((text, FAULT), (f"  → {fix}" if fix else "", FIX)):
            if not line:
                continue
            if sys.stderr.isatty():
                _console(is_error=True).print(line, style=style, markup=False)
            else:
                _write(sys.stderr, line, "\n")


def _console(*, is_error: bool) -> Console:
    from rich.console import Console

    return Console(stderr=is_error, highlight=False, soft_wrap=True)


def _write(stream: TextIO, text: str, end: str) -> None:
    stream.write(printable(text) + end)
    stream.flush()


def _plain(cell: Any) -> Any:
    """Cells are text, not markup: `[lora]` in a path stays what it is."""
    from rich.text import Text

    return Text(str(cell))


class Bar:
    """A live bar for terminals; facts (loss, tokens/s) stand beside it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Progress | None = None
        self.task: TaskID | None = None

    def start(self, what: str, total: int | None = None) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.finish()
        self.live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed}/{task.total}" if total else "{task.completed}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}", style="cyan"),
            console=self.console,
        )
        self.task = self.live.add_task(what, total=total, facts="")
        self.live.start()
        _SHOWN.add(self)

    def advance(self, steps: int = 1, **facts: Any) -> None:
        if self.live is not None and self.task is not None:
            self.live.update(self.task, advance=steps)
            if facts:
                shown = {name: value for name, value in facts.items() if name != "lr"}  # eighty columns are not many
                self.live.update(self.task, facts=facts_text(shown))

    def finish(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None
            _SHOWN.discard(self)

    def note(self, sentence: str) -> None:
        self.console.print(sentence, markup=False)


_SHOWN: set[Bar] = set()


def stop_bars() -> None:
    """Give the terminal its cursor back, whatever stopped us in the middle of a bar."""
    for bar in list(_SHOWN):
        bar.finish()


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
            _write(sys.stderr, text.rstrip(), "\n")


def facts_text(facts: Mapping[str, Any]) -> str:
    """`loss 1.234 · tokens/s 3,210`."""
    return " · ".join(f"{_word(name)} {_figure(value)}" for name, value in facts.items() if value is not None)


def _word(name: str) -> str:
    """A fact's name in the reader's language; names that methods of other packages bring stay as they are."""
    known = f"progress_{name}" in load_room("cli", current_language())
    return say(f"cli.progress_{name}") if known else name.replace("_per_", "/")


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
