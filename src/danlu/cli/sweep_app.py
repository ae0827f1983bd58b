"""The words of `danlu sweep`: its command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from danlu import cli
from danlu.cli.options import RUNS, Json, Lang, Quiet, Runs
from danlu.cli.voice import Voice
from danlu.core.messages import say


def sweep_command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help=say("cli.arg_recipe"))],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[a.b=c]...", help=say("cli.arg_overrides"))] = None,
    over: Annotated[list[str] | None, typer.Option("--over", metavar="KEY=V,V", help=say("sweep.opt_over"))] = None,
    by: Annotated[str, typer.Option("--by", help=say("sweep.opt_by"))] = "grid",
    trials: Annotated[int | None, typer.Option("--trials", min=1, help=say("sweep.opt_trials"))] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help=say("sweep.opt_seed"))] = 0,
    parallel: Annotated[int, typer.Option("--parallel", min=1, help=say("sweep.opt_parallel"))] = 1,
    runs: Runs = RUNS,
    as_json: Json = False,
    quiet: Quiet = False,
    lang: Lang = None,
) -> None:
    voice = Voice(as_json=as_json, quiet=quiet)
    cli.sweeping.show_sweep(
        recipe, overrides or (), runs, voice, over=over or (), by=by, trials=trials, seed=seed, parallel=parallel
    )
