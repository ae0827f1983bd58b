"""The words of `danlu advise`: what may be said on the command line. `advising.py` answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from danlu import cli
from danlu.cli.options import Card, Memory
from danlu.cli.voice import Voice
from danlu.core.messages import say


def advise_command(
    voice: Voice,
    data: Annotated[list[Path] | None, typer.Argument(metavar="[DATA]...", help=say("advice.arg_data"))] = None,
    task: Annotated[str, typer.Option("--task", help=say("advice.opt_task"))] = "answer",
    language: Annotated[str, typer.Option("--language", help=say("advice.opt_language"))] = "zh",
    purpose: Annotated[str, typer.Option("--purpose", help=say("advice.opt_purpose"))] = "commercial",
    card: Card = None,
    memory: Memory = None,
    base: Annotated[str | None, typer.Option("--base", metavar="NAME", help=say("advice.opt_base"))] = None,
    script: Annotated[Path | None, typer.Option("--script", metavar="FILE", help=say("advice.opt_script"))] = None,
    write: Annotated[Path | None, typer.Option("--write", metavar="FILE", help=say("advice.opt_write"))] = None,
) -> None:
    if script is not None:
        is_good = cli.advising.show_review(script, voice)
    else:
        is_good = cli.advising.show_advice(
            voice, task=task, language=language, purpose=purpose, data=data or (), card=card, memory_gib=memory,
            base=base, recipe=write,
        )  # fmt: skip
    if not is_good:
        raise typer.Exit(1)
