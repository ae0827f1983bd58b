"""The words of `danlu serving …`: what may be said on the command line. `rolling.py` answers."""

from __future__ import annotations

from typing import Annotated

import typer

from danlu import cli
from danlu.cli.help import App
from danlu.cli.options import RUNS, Json, Lang, Quiet, Reason, Runs
from danlu.cli.voice import Voice
from danlu.core.messages import say

Model = Annotated[str, typer.Argument(metavar="MODEL", help=say("rollout.arg_model"))]
To = Annotated[str, typer.Argument(metavar="VERSION", help=say("rollout.arg_to"))]
serving_app = App()


@serving_app.command("status", help=say("rollout.cmd_status"))
def status(runs: Runs = RUNS, as_json: Json = False, quiet: Quiet = False, lang: Lang = None) -> None:
    cli.rolling.show_status(runs, Voice(as_json=as_json, quiet=quiet))


@serving_app.command("flip", help=say("rollout.cmd_flip"))
def flip(
    model: Model, to: To, reason: Reason = "", runs: Runs = RUNS, as_json: Json = False, quiet: Quiet = False,
    lang: Lang = None,
) -> None:  # fmt: skip
    cli.rolling.flip(model, to, runs, Voice(as_json=as_json, quiet=quiet), reason=reason)


@serving_app.command("back", help=say("rollout.cmd_back"))
def back(
    model: Model, reason: Reason = "", runs: Runs = RUNS, as_json: Json = False, quiet: Quiet = False, lang: Lang = None
) -> None:
    cli.rolling.back(model, runs, Voice(as_json=as_json, quiet=quiet), reason=reason)


@serving_app.command("split", help=say("rollout.cmd_split"))
def split(
    model: Model,
    shares: Annotated[list[str], typer.Argument(metavar="VERSION=SHARE...", help=say("rollout.arg_shares"))],
    reason: Reason = "",
    runs: Runs = RUNS,
    as_json: Json = False,
    quiet: Quiet = False,
    lang: Lang = None,
) -> None:
    cli.rolling.split(model, shares, runs, Voice(as_json=as_json, quiet=quiet), reason=reason)


@serving_app.command("add", help=say("rollout.cmd_add"))
def add(
    model: Model, to: To, reason: Reason = "", runs: Runs = RUNS, as_json: Json = False, quiet: Quiet = False,
    lang: Lang = None,
) -> None:  # fmt: skip
    cli.rolling.add(model, to, runs, Voice(as_json=as_json, quiet=quiet), reason=reason)


@serving_app.command("drop", help=say("rollout.cmd_drop"))
def drop(
    name: Annotated[str, typer.Argument(metavar="MODEL|VERSION", help=say("rollout.arg_drop"))],
    reason: Reason = "",
    runs: Runs = RUNS,
    as_json: Json = False,
    quiet: Quiet = False,
    lang: Lang = None,
) -> None:
    cli.rolling.drop(name, runs, Voice(as_json=as_json, quiet=quiet), reason=reason)


@serving_app.command("reload", help=say("rollout.cmd_reload"))
def reload(
    reason: Reason = "", runs: Runs = RUNS, as_json: Json = False, quiet: Quiet = False, lang: Lang = None
) -> None:
    cli.rolling.reload(runs, Voice(as_json=as_json, quiet=quiet), reason=reason)
