"""What only a terminal shows, by rich: colour, tables, a live bar. `voice.py` imports it late: rich is slow to load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from danlu.cli.lines import visible
from danlu.cli.progress import facts_text, shown


def console_on(*, is_error: bool) -> Console:
    return Console(stderr=is_error, highlight=False, soft_wrap=True)


def table_of(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None, *, num_whole: int) -> Table:
    """Cells are text, not markup: `[lora]` in a path stays what it is."""
    table = Table(title=title and visible(title), title_justify="left", header_style="bold", border_style="dim")
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=place < num_whole)
    for row in rows:
        table.add_row(*(Text("" if cell is None else visible(str(cell))) for cell in row))
    return table


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
            BarColumn(bar_width=16),
            TextColumn("{task.completed}/{task.total}" if total else "{task.completed}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}", style="cyan"),
            console=self.console,
        )
        self.task = self.live.add_task(what, total=total, facts="")
        self.live.start()
        shown.add(self)

    def advance(self, steps: int = 1, **facts: Any) -> None:
        if self.live is not None and self.task is not None:
            self.live.update(self.task, advance=steps)
            if facts:
                brief = {name: value for name, value in facts.items() if name != "lr"}  # eighty columns are not many
                self.live.update(self.task, facts=facts_text(brief))

    def finish(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None
            shown.discard(self)

    def note(self, sentence: str) -> None:
        self.console.print(visible(sentence), markup=False)
