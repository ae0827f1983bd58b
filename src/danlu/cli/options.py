"""Options and arguments that several commands share, each said once.

Help texts are made when this module loads, so the language is chosen here, before any of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from danlu.core.messages import LANGUAGES, say, set_language


def choose_language(words: Sequence[str]) -> None:
    """--lang has to be known before anything is said; what it may be is checked with the other options."""
    for index, word in enumerate(words):
        value = word.partition("=")[2] if word.startswith("--lang=") else ""
        if word == "--lang" and index + 1 < len(words):
            value = words[index + 1]
        for language in LANGUAGES:
            if value == language:
                set_language(language)


choose_language(sys.argv[1:])


def _known_language(value: str | None) -> str | None:
    if value is not None and value not in LANGUAGES:
        raise typer.BadParameter(say("cli.unknown_language", given=value, known=", ".join(LANGUAGES)))
    return value


Json = Annotated[bool, typer.Option("--json", help=say("cli.opt_json"))]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help=say("cli.opt_quiet"))]
Lang = Annotated[
    str | None, typer.Option("--lang", metavar="en|zh", help=say("cli.opt_lang"), callback=_known_language)
]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help=say("cli.opt_runs"))]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help=say("cli.opt_reason"))]
Target = Annotated[str, typer.Argument(metavar="RECIPE|RUN|ARTIFACT", help=say("cli.arg_target"))]
RUNS = Path("runs")
