"""`danlu sweep`: prints who is best and who cannot be told apart from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import danlu
from danlu.cli.voice import Voice
from danlu.core.errors import RecipeError
from danlu.core.messages import say
from danlu.evaluation.ranking_html import heads, rows, standing, verdict
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
        raise RecipeError("sweep.unknown_way", where="--by", given=by, known=", ".join(get_args(By)))
    wish = Wish(read_over(over), by, trials, seed, parallel)  # type: ignore[arg-type]
    swept = danlu.sweep(Recipe.load(recipe, overrides), wish, runs, progress=voice.progress)
    found = swept.to_json()
    ranking = found["ranking"]
    voice.table(heads(), [_cells(row, one) for row, one in zip(rows(ranking), ranking, strict=True)], num_whole=2)
    voice.say(verdict(found), "bold")
    voice.say(say("sweep.luck"))
    voice.say(say("sweep.written", best=found["best"], page=found["page"]))
    voice.result(found)


def _cells(row: Sequence[Any], one: Mapping[str, Any]) -> list[str]:
    """A page's row for a narrow terminal: each key on a line of its own, intervals under their numbers."""
    place, _, accuracy, behind, p, _ = map(str, row)
    values = "\n".join([one["trial"], *(f"{key}={value}" for key, value in one["settings"].items())])
    return [place, values, accuracy.replace(" (", "\n("), behind.replace(" (", "\n("), p, standing(one, int(place))]
