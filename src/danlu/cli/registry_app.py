"""The words of `danlu registry …`: what may be said on the command line. `registering.py` answers."""

from __future__ import annotations

from typing import Annotated

import typer

from danlu import cli
from danlu.cli.help import App
from danlu.cli.options import RUNS, Reason, Runs
from danlu.cli.voice import Voice
from danlu.core.messages import say

Named = Annotated[str, typer.Argument(metavar="NAME[:N|@ALIAS]", help=say("registry.arg_named"))]
registry_app = App()


@registry_app.command("add", help=say("registry.cmd_add"))
def add(
    voice: Voice,
    target: Annotated[str, typer.Argument(metavar="RECIPE|RUN|ARTIFACT", help=say("cli.arg_target"))],
    kind: Annotated[str | None, typer.Option("--kind", help=say("registry.opt_kind"))] = None,
    alias: Annotated[str | None, typer.Option("--alias", help=say("registry.opt_alias"))] = None,
    reason: Reason = "",
    runs: Runs = RUNS,
) -> None:
    cli.registering.add(target, runs, voice, kind=kind, alias=alias, reason=reason)


@registry_app.command("list", help=say("registry.cmd_list"))
def list_(
    voice: Voice,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help=say("registry.arg_named"))] = None,
    runs: Runs = RUNS,
) -> None:
    cli.registering.show_versions(name, runs, voice)


@registry_app.command("show", help=say("registry.cmd_show"))
def show(voice: Voice, named: Named, runs: Runs = RUNS) -> None:
    cli.registering.show_version(named, runs, voice)


@registry_app.command("alias", help=say("registry.cmd_alias"))
def alias_(
    voice: Voice,
    named: Annotated[str, typer.Argument(metavar="NAME:N", help=say("registry.arg_named"))],
    alias: str,
    reason: Reason = "",
    runs: Runs = RUNS,
) -> None:
    cli.registering.point(named, alias, runs, voice, reason=reason)


@registry_app.command("rollback", help=say("registry.cmd_rollback"))
def rollback(
    voice: Voice,
    named: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help=say("registry.arg_named"))],
    reason: Reason = "",
    runs: Runs = RUNS,
) -> None:
    cli.registering.roll_back(named, runs, voice, reason=reason)


@registry_app.command("withdraw", help=say("registry.cmd_withdraw"))
def withdraw(
    voice: Voice,
    named: Annotated[str, typer.Argument(metavar="NAME:N", help=say("registry.arg_named"))],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help=say("cli.opt_reason"), prompt=False)] = "",
    runs: Runs = RUNS,
) -> None:
    cli.registering.withdraw(named, runs, voice, reason=reason)
