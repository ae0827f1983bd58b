"""The words of `danlu audit …` and `danlu forget`: what may be said on the command line. `auditing.py` answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from danlu import cli
from danlu.cli.help import App
from danlu.cli.options import RUNS, Reason, Runs
from danlu.cli.voice import Voice
from danlu.core.messages import say

Keys = Annotated[Path | None, typer.Option("--keys", metavar="FILE", help=say("cli.opt_keys"))]
audit_app = App()


@audit_app.command("verify", help=say("cli.audit_verify"))
def audit_verify(
    voice: Voice,
    runs: Runs = RUNS,
    anchors: Annotated[Path | None, typer.Option("--anchor", metavar="FILE", help=say("cli.opt_anchor"))] = None,
) -> None:
    if not cli.auditing.verify(runs, anchors, voice):
        raise typer.Exit(1)


@audit_app.command("show", help=say("cli.audit_show"))
def audit_show(
    voice: Voice,
    runs: Runs = RUNS,
    num: Annotated[int, typer.Option("--num", min=1, help=say("cli.opt_num"))] = 30,
) -> None:
    cli.auditing.show(runs, num, voice)


@audit_app.command("head", help=say("cli.audit_head"))
def audit_head(
    voice: Voice,
    runs: Runs = RUNS,
    anchor: Annotated[Path | None, typer.Option("--anchor", metavar="FILE", help=say("cli.opt_anchor"))] = None,
) -> None:
    cli.auditing.head(runs, anchor, voice)


@audit_app.command("rotate-key", help=say("cli.audit_rotate"))
def audit_rotate(
    voice: Voice,
    runs: Runs = RUNS,
    keys: Keys = None,
    destroy: Annotated[bool, typer.Option("--destroy", help=say("cli.opt_destroy"))] = False,
    reason: Reason = "",
) -> None:
    if not cli.auditing.rotate(runs, keys, destroy=destroy, reason=reason, voice=voice):
        raise typer.Exit(1)


def forget_command(
    voice: Voice,
    values: Annotated[list[str], typer.Argument(metavar="VALUE...", help=say("cli.arg_values"))],
    runs: Runs = RUNS,
    keys: Keys = None,
    reason: Reason = "",
    verify_all: Annotated[bool, typer.Option("--verify", help=say("cli.opt_verify"))] = False,
    run: Annotated[Path | None, typer.Option("--run", metavar="RUN", help=say("cli.opt_verify_run"))] = None,
) -> None:
    values = list(_said(values))
    if not verify_all:
        cli.auditing.forget_values(values, runs, keys, reason, voice)
    elif not cli.auditing.verify_values(values, runs, keys, run, reason, voice):
        raise typer.Exit(1)


def _said(values: Sequence[str]) -> Iterator[str]:
    """The values; `-` stands for the lines of standard input, which no shell keeps in its history."""
    for value in values:
        if value == "-":
            yield from (line.strip() for line in sys.stdin if line.strip())
        else:
            yield value
