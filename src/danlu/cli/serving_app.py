"""The words of `danlu serving …`: what may be said on the command line. `rolling.py` answers."""

from __future__ import annotations

from typing import Annotated

import typer

from danlu import cli
from danlu.cli.help import App
from danlu.cli.options import RUNS, Reason, Runs
from danlu.cli.voice import Voice
from danlu.core.messages import say

Model = Annotated[str, typer.Argument(metavar="MODEL", help=say("rollout.arg_model"))]
To = Annotated[str, typer.Argument(metavar="VERSION", help=say("rollout.arg_to"))]
serving_app = App()


@serving_app.command("status", help=say("rollout.cmd_status"))
def status(voice: Voice, runs: Runs = RUNS) -> None:
    cli.rolling.show_status(runs, voice)


@serving_app.command("switch", help=say("rollout.cmd_switch"))
def switch(voice: Voice, model: Model, to: To, reason: Reason = "", runs: Runs = RUNS) -> None:
    cli.rolling.switch(model, to, runs, voice, reason=reason)


@serving_app.command("rollback", help=say("rollout.cmd_rollback"))
def rollback(voice: Voice, model: Model, reason: Reason = "", runs: Runs = RUNS) -> None:
    cli.rolling.rollback(model, runs, voice, reason=reason)


@serving_app.command("split", help=say("rollout.cmd_split"))
def split(
    voice: Voice,
    model: Model,
    shares: Annotated[list[str], typer.Argument(metavar="VERSION=SHARE...", help=say("rollout.arg_shares"))],
    reason: Reason = "",
    runs: Runs = RUNS,
) -> None:
    cli.rolling.split(model, shares, runs, voice, reason=reason)


@serving_app.command("add", help=say("rollout.cmd_add"))
def add(voice: Voice, model: Model, to: To, reason: Reason = "", runs: Runs = RUNS) -> None:
    cli.rolling.add(model, to, runs, voice, reason=reason)


@serving_app.command("remove", help=say("rollout.cmd_remove"))
def remove(
    voice: Voice,
    name: Annotated[str, typer.Argument(metavar="MODEL|VERSION", help=say("rollout.arg_remove"))],
    reason: Reason = "",
    runs: Runs = RUNS,
) -> None:
    cli.rolling.remove(name, runs, voice, reason=reason)


@serving_app.command("reload", help=say("rollout.cmd_reload"))
def reload(voice: Voice, reason: Reason = "", runs: Runs = RUNS) -> None:
    cli.rolling.reload(runs, voice, reason=reason)
