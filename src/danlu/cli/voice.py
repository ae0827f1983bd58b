"""How the command line speaks: people get colour and a bar, scripts get one JSON object, pipes get plain lines.

With `--json` only the result goes to standard output (its last line); everything else goes to standard error.
rich is loaded for terminals and tables only: a wrong recipe is answered before it would be there.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import orjson

from danlu.cli.lines import visible
from danlu.cli.progress import Lines, write

if TYPE_CHECKING:
    from rich.console import Console

    from danlu.cli.terminal import Bar

FAULT, FIX = "bold red", "yellow"


class Voice:
    """One command's way to speak. `progress` is a `danlu.core.progress.Progress`."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet

    @functools.cached_property
    def console(self) -> Console:
        """Where results for people go."""
        console: Console = terminal().console_on(is_error=self.as_json)
        return console

    @functools.cached_property
    def progress(self) -> Bar | Lines:
        shows_bar = sys.stdout.isatty() and not self.quiet and not self.as_json
        return terminal().Bar(self.console) if shows_bar else Lines(silent=self.quiet)

    def say(self, text: str = "", style: str | None = None, *, end: str = "\n") -> None:
        if self.quiet:
            return
        stream = sys.stderr if self.as_json else sys.stdout
        if stream.isatty():
            self.console.print(visible(text), style=style, markup=False, end=end)
        else:
            write(stream, text, end)

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None, *, num_whole: int = 0
    ) -> None:
        """The first `num_whole` columns are never folded: what people copy."""
        if self.quiet:
            return
        self.console.print(terminal().table_of(columns, rows, title, num_whole=num_whole))

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
                terminal().console_on(is_error=True).print(visible(line), style=style, markup=False)
            else:
                write(sys.stderr, line)


def terminal() -> ModuleType:
    import danlu.cli.terminal  # rich: what fails on a pipe never waits for it

    return danlu.cli.terminal
