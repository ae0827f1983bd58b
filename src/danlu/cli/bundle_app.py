"""The words of `danlu bundle`: its command line. `bundling.py` answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from danlu import cli
from danlu.cli.options import RUNS, Runs
from danlu.cli.voice import Voice
from danlu.core.messages import say


def bundle_command(
    voice: Voice,
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=]TARGET... [serving.a=b]...", help=say("bundle.arg_targets")),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER", help=say("bundle.opt_out"))] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help=say("bundle.opt_config"))] = None,
    others: Annotated[list[Path] | None, typer.Option("--with", metavar="PATH", help=say("bundle.opt_with"))] = None,
    train: Annotated[bool, typer.Option("--train", help=say("bundle.opt_train"))] = False,
    files_only: Annotated[bool, typer.Option("--files-only", help=say("bundle.opt_files_only"))] = False,
    wheels: Annotated[Path | None, typer.Option("--wheels", metavar="FOLDER", help=say("bundle.opt_wheels"))] = None,
    python: Annotated[str | None, typer.Option("--python", metavar="3.N", help=say("bundle.opt_python"))] = None,
    platform: Annotated[str, typer.Option("--platform", metavar="TAG", help=say("bundle.opt_platform"))] = "",
    check: Annotated[Path | None, typer.Option("--check", metavar="BUNDLE", help=say("bundle.opt_check"))] = None,
    runs: Runs = RUNS,
) -> None:
    if check is not None:
        cli.bundling.check_bundle(check, voice)
        return
    if out is None:
        raise typer.BadParameter(say("bundle.no_out"), param_hint="--out")
    cli.bundling.make_bundle(
        targets or (), out, runs, voice, config=config, others=others or (), to_train=train, has_wheels=not files_only,
        wheels=wheels, python=python, platform=platform,
    )  # fmt: skip
