"""How the command line speaks: people get colour and a bar, scripts get one JSON object, pipes get plain lines.

With `--json` only the result goes to standard output (its last line); everything else goes to standard error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table


class Voice:
    """One command's way to speak. `progress` is a `danlu.core.progress.Progress`."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.console = Console(stderr=as_json, highlight=False, soft_wrap=True)
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)
        shows_bar = self.console.is_terminal and not quiet and not as_json
        self.progress: Bar | Lines = Bar(self.console) if shows_bar else Lines(self.errors, silent=quiet)

    def say(self, text: str = "", style: str | None = None) -> None:
        if not self.quiet:
            self.console.print(text, style=style, markup=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
        if self.quiet:
            return
        table = Table(title=title, title_justify="left", header_style="bold", border_style="dim")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*("" if cell is None else str(cell) for cell in row))
        self.console.print(table)

    def result(self, value: Mapping[str, Any] | Sequence[Any]) -> None:
        """The command's answer for scripts; one line, printed only with --json."""
        if self.as_json:
            line = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY, default=str)
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()

    def fail(self, text: str, fix: str = "") -> None:
        self.errors.print(text, style="bold red", markup=False)
        if fix:
            self.errors.print(f"  → {fix}", style="yellow", markup=False)


class Bar:
    """A live bar for terminals; facts (loss, tokens/s) stand beside it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Progress | None = None
        self.task: TaskID | None = None

    def start(self, what: str, total: int | None = None) -> None:
        self.finish()
        self.live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed}/{task.total}" if total else "{task.completed}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}", style="cyan"),
            console=self.console,
        )
        self.task = self.live.add_task(what, total=total, facts="")
        self.live.start()

    def advance(self, steps: int = 1, **facts: Any) -> None:
        if self.live is not None and self.task is not None:
            self.live.update(self.task, advance=steps)
            if facts:
                self.live.update(self.task, facts=facts_text(facts))

    def finish(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def note(self, sentence: str) -> None:
        self.console.print(sentence, markup=False)


class Lines:
    """Plain lines for pipes and logs: one at the start, one every ten seconds, one at the end."""

    EVERY_S = 10.0

    def __init__(self, console: Console, *, silent: bool) -> None:
        self.console, self.silent = console, silent
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
            self.console.print(text, markup=False)


def facts_text(facts: Mapping[str, Any]) -> str:
    """`loss 1.234 · tokens/s 3,210`."""
    return " · ".join(
        f"{name.replace('_', ' ')} {_figure(value)}" for name, value in facts.items() if value is not None
    )


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
