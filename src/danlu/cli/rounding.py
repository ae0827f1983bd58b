"""`danlu round`: train on the data of now, promote or hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import danlu
from danlu.cli.voice import FAULT, Voice
from danlu.core.messages import say
from danlu.evaluation.gate import points
from danlu.recipe import Recipe


def show_round(recipe: Path, overrides: Sequence[str], runs: Path, voice: Voice) -> bool:
    """Whether the round was promoted."""
    found = danlu.play_round(Recipe.load(recipe, overrides), runs, progress=voice.progress)
    if found.comparison is not None:
        told = found.comparison.comparison
        voice.say(say("round.beside", version=found.before.label if found.before else "-", value=points(told.value),
                      low=points(told.low), high=points(told.high), items=found.comparison.num_shared))  # fmt: skip
    title = "round.is_promoted" if found.promoted else "round.is_held"
    voice.say(say(title, run=found.run.name), "bold" if found.promoted else FAULT)
    voice.say(found.reason)
    voice.result(found.to_json())
    return found.promoted is not None
