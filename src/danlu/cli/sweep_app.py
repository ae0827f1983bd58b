"""The words of `danlu sweep`: its command line."""

from __future__ import annotations

from typing import Annotated

import typer

from danlu import cli
from danlu.cli.options import RUNS, Overrides, RecipeFile, Runs
from danlu.cli.voice import Voice
from danlu.core.messages import say


def sweep_command(
    voice: Voice,
    recipe: RecipeFile,
    overrides: Overrides = None,
    over: Annotated[list[str] | None, typer.Option("--over", metavar="KEY=V,V", help=say("sweep.opt_over"))] = None,
    by: Annotated[str, typer.Option("--by", help=say("sweep.opt_by"))] = "grid",
    trials: Annotated[int | None, typer.Option("--trials", min=1, help=say("sweep.opt_trials"))] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help=say("sweep.opt_seed"))] = 0,
    parallel: Annotated[int, typer.Option("--parallel", min=1, help=say("sweep.opt_parallel"))] = 1,
    runs: Runs = RUNS,
) -> None:
    cli.sweeping.show_sweep(
        recipe, overrides or (), runs, voice, over=over or (), by=by, trials=trials, seed=seed, parallel=parallel
    )
