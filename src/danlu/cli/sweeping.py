"""`danlu sweep`: prints who is best and who cannot be told apart from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import danlu
from danlu.cli.voice import Voice
from danlu.core.errors import RecipeError
from danlu.core.messages import listed, say
from danlu.evaluation.ranking_html import heads, rows, verdict
from danlu.pipeline.trials import By, Wish, read_over
from danlu.recipe import Recipe


def show_sweep(
    recipe: Path,
    overrides: Sequence[str],
    runs: Path,
    voice: Voice,
    *,
    over: Sequence[str],
    by: str,
    trials: int | None,
    seed: int,
    parallel: int,
) -> None:
    if by not in get_args(By):
        raise RecipeError("sweep.unknown_way", where="--by", given=by, known=listed(get_args(By)))
    wish = Wish(read_over(over), by, trials, seed, parallel)  # type: ignore[arg-type]
    swept = danlu.sweep(Recipe.load(recipe, overrides), wish, runs, progress=voice.progress)
    found = swept.to_json()
    voice.table(heads(), rows(found["ranking"]), num_whole=2)
    voice.say(verdict(found), "bold")
    voice.say(say("sweep.luck"))
    voice.say(say("sweep.written", best=found["best"], page=found["page"]))
    voice.result(found)
