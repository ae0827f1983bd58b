"""Options and arguments that several commands share, each said once.

Help texts are made when this module loads, so the language is chosen here, before any of them.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from danlu.cli.voice import Voice
from danlu.core.messages import LANGUAGES, listed, say, set_language


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
        raise typer.BadParameter(say("cli.unknown_language", given=value, known=listed(LANGUAGES)))
    return value


Json = Annotated[bool, typer.Option("--json", help=say("cli.opt_json"))]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help=say("cli.opt_quiet"))]
Lang = Annotated[
    str | None, typer.Option("--lang", metavar="en|zh", help=say("cli.opt_lang"), callback=_known_language)
]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help=say("cli.opt_runs"))]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help=say("cli.opt_reason"))]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help=say("cli.arg_recipe"))]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[a.b=c]...", help=say("cli.arg_overrides"))]
Target = Annotated[str, typer.Argument(metavar="RECIPE|RUN|ARTIFACT", help=say("cli.arg_target"))]
Paths = Annotated[list[Path], typer.Argument(metavar="PATH...", help=say("cli.arg_paths"))]
Format = Annotated[str | None, typer.Option("--format", metavar="NAME", help=say("cli.opt_format"))]
Columns = Annotated[list[str] | None, typer.Option("--columns", metavar="PART=COLUMN", help=say("cli.opt_columns"))]
Card = Annotated[str | None, typer.Option("--card", metavar="NAME", help=say("cli.opt_card"))]
Memory = Annotated[float | None, typer.Option("--memory", metavar="GB", min=0.1, help=say("cli.opt_memory"))]
RUNS = Path("runs")
_VOICE = [
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, default, annotation in (("as_json", False, Json), ("quiet", False, Quiet), ("lang", None, Lang))
]


def spoken(verb: Callable[..., None]) -> Callable[..., None]:
    """`verb` as typer reads it: for its `voice` stand --json, --quiet and --lang, the last options of every command."""

    @functools.wraps(verb)
    def speak(*, as_json: bool, quiet: bool, lang: str | None, **words: Any) -> None:
        del lang  # heard before anything was said, see `choose_language`; as an option it is checked and explained
        verb(voice=Voice(as_json=as_json, quiet=quiet), **words)

    signature = inspect.signature(verb, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "voice"]
    speak.__signature__ = signature.replace(parameters=[*own, *_VOICE])  # type: ignore[attr-defined]
    return speak
