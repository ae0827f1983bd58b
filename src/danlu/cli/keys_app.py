"""The words of `danlu keys …` and `danlu usage`: what may be said on the command line. `keying.py` and `metering.py`
answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from danlu import cli
from danlu.cli.help import App
from danlu.cli.options import RUNS, Reason, Runs
from danlu.cli.voice import Voice
from danlu.core.messages import say

Named = Annotated[str, typer.Argument(metavar="KEY", help=say("keys.arg_key"))]
Config = Annotated[Path | None, typer.Option("--config", metavar="RECIPE", help=say("keys.opt_config"))]
Models = Annotated[list[str] | None, typer.Option("--model", metavar="MODEL", help=say("keys.opt_model"))]
Rpm = Annotated[int | None, typer.Option("--rpm", metavar="REQUESTS", min=0, help=say("keys.opt_rpm"))]
Tpm = Annotated[int | None, typer.Option("--tpm", metavar="TOKENS", min=0, help=say("keys.opt_tpm"))]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", metavar="REQUESTS", min=0, help=say("keys.opt_concurrency"))
]
Month = Annotated[int | None, typer.Option("--monthly-tokens", metavar="TOKENS", min=0, help=say("keys.opt_month"))]
Expires = Annotated[str | None, typer.Option("--expires", metavar="90d|DATE|never", help=say("keys.opt_expires"))]
Keeps = Annotated[bool | None, typer.Option("--keep-bodies/--no-bodies", help=say("keys.opt_bodies"))]
By = Annotated[list[str] | None, typer.Option("--by", metavar="key|model|version|day", help=say("keys.opt_by"))]
keys_app = App()


@keys_app.command("create", help=say("keys.cmd_create"))
def create(
    voice: Voice,
    name: Annotated[str, typer.Argument(metavar="NAME", help=say("keys.arg_name"))],
    models: Models = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrency: Concurrency = None,
    month: Month = None,
    expires: Expires = None,
    keeps_bodies: Keeps = None,
    reason: Reason = "",
    config: Config = None,
    runs: Runs = RUNS,
) -> None:
    terms = cli.keying.Terms(models, rpm, tpm, concurrency, month, expires, keeps_bodies)
    cli.keying.create(name, terms, cli.keying.Place(runs, config), voice, reason=reason)


@keys_app.command("list", help=say("keys.cmd_list"))
def list_(voice: Voice, config: Config = None, runs: Runs = RUNS) -> None:
    cli.keying.show(cli.keying.Place(runs, config), voice)


@keys_app.command("change", help=say("keys.cmd_change"))
def change(
    voice: Voice,
    named: Named,
    models: Models = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrency: Concurrency = None,
    month: Month = None,
    expires: Expires = None,
    keeps_bodies: Keeps = None,
    reason: Reason = "",
    config: Config = None,
    runs: Runs = RUNS,
) -> None:
    terms = cli.keying.Terms(models, rpm, tpm, concurrency, month, expires, keeps_bodies)
    cli.keying.change(named, terms, cli.keying.Place(runs, config), voice, reason=reason)


@keys_app.command("rotate", help=say("keys.cmd_rotate"))
def rotate(
    voice: Voice,
    named: Named,
    overlap: Annotated[str, typer.Option("--overlap", metavar="24h", help=say("keys.opt_overlap"))] = "24h",
    reason: Reason = "",
    config: Config = None,
    runs: Runs = RUNS,
) -> None:
    cli.keying.rotate(named, overlap, cli.keying.Place(runs, config), voice, reason=reason)


@keys_app.command("revoke", help=say("keys.cmd_revoke"))
def revoke(voice: Voice, named: Named, reason: Reason = "", config: Config = None, runs: Runs = RUNS) -> None:
    cli.keying.revoke(named, cli.keying.Place(runs, config), voice, reason=reason)


def usage_command(
    voice: Voice,
    by: By = None,
    since: Annotated[str | None, typer.Option("--since", metavar="DATE", help=say("keys.opt_since"))] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="DATE", help=say("keys.opt_until"))] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help=say("keys.opt_csv"))] = None,
    config: Config = None,
    runs: Runs = RUNS,
) -> None:
    cli.metering.show_usage(by or ["key", "model"], since, until, csv, cli.keying.Place(runs, config), voice)
