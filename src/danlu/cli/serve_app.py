"""The words of `danlu serve`, `danlu feedback` and `danlu chat`. `serving.py`, `feedback.py` and `chat.py` answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from danlu import cli
from danlu.cli.help import App
from danlu.cli.options import RUNS, Runs
from danlu.cli.voice import Voice
from danlu.core.messages import say

feedback_app = App()


def serve_command(
    voice: Voice,
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=]TARGET... [serving.a=b]...", help=say("serve.arg_targets"))
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help=say("serve.opt_config"))] = None,
    first_key: Annotated[bool, typer.Option("--first-key", help=say("serve.opt_first_key"))] = False,
    dry: Annotated[bool, typer.Option("--check", help=say("serve.opt_check"))] = False,
    runs: Runs = RUNS,
) -> None:
    cli.serving.serve(targets or (), runs, voice, config=config, first_key=first_key, dry=dry)


def chat_command(
    voice: Voice,
    target: Annotated[str, typer.Argument(metavar="RECIPE|RUN|ARTIFACT|URL", help=say("serve.arg_chat"))],
    model: Annotated[str, typer.Option("--model", metavar="NAME", help=say("serve.opt_model"))] = "",
    key_file: Annotated[Path | None, typer.Option("--key-file", metavar="FILE", help=say("serve.opt_key_file"))] = None,
    forget: Annotated[bool, typer.Option("--forget", help=say("serve.opt_forget"))] = False,
    plain_http: Annotated[bool, typer.Option("--plain-http", help=say("serve.opt_plain_http"))] = False,
    runs: Runs = RUNS,
    allow_unproven: Annotated[bool, typer.Option("--allow-unproven", help=say("cli.allow_unproven"))] = False,
) -> None:
    if target.startswith(("http://", "https://")):
        cli.calling.call(target, voice, model=model, key_file=key_file, forget=forget, plain_http=plain_http)
    else:
        cli.chat.talk(target, runs, voice, allow_unproven=allow_unproven)


@feedback_app.command("show", help=say("serve.cmd_feedback_show"))
def feedback_show(voice: Voice, runs: Runs = RUNS) -> None:
    cli.opinions.show(runs, voice)


@feedback_app.command("export", help=say("serve.cmd_feedback_export"))
def feedback_export(
    voice: Voice,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help=say("serve.arg_feedback"))],
    runs: Runs = RUNS,
) -> None:
    cli.opinions.export(folder, runs, voice)
