"""Synthesis and augmentation of a recipe: opens the teacher that the recipe names and hands it to `data`.

Called by prepare: `synthesize` after privacy and twins, before the split; `vary` on the train part, after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from danlu.core.progress import Progress
from danlu.data.ledger import Ledger
from danlu.data.sample import Sample
from danlu.recipe.recipe import Recipe


def synthesize(
    recipe: Recipe, samples: Sequence[Sample], folder: Path, cache_folder: Path, ledger: Ledger, progress: Progress
) -> list[Sample]:
    """What a teacher makes of the documents among `samples`; [] where the recipe asks for nothing.

    `folder` gets `yield.json` and `refused.jsonl`; `cache_folder` holds the teacher's replies and may serve many runs.
    """
    raise NotImplementedError


def vary(recipe: Recipe, train: Sequence[Sample], cache_folder: Path, progress: Progress) -> list[Sample]:
    """Variants of train samples (only the variants); [] where the recipe names no method."""
    raise NotImplementedError
