"""Replay: general data against forgetting, by default what the base itself answers to general prompts."""

from __future__ import annotations

from pathlib import Path

from danlu.core.progress import Progress
from danlu.data.ledger import Ledger
from danlu.data.sample import Sample
from danlu.recipe.recipe import Recipe


def make_replay(
    recipe: Recipe, num_tokens: int, cache_folder: Path, ledger: Ledger, progress: Progress
) -> list[Sample]:
    """General samples of about `num_tokens` tokens or more (fewer where there are no more), best first; [] for `none`.

    `source: file` reads `path` (as ever: all of it, in its order). `source: base` lets the base answer danlu's own (or
    the recipe's) prompts; answers are cached in `cache_folder` by base, template and prompt, so any run of this
    base finds them. `auto`: the file where one is named; else the base, where it has a template, was not initialised at
    random, has at least 100 million parameters and torch is installed; else nothing, said once. Samples carry
    `made_by` "replay". The caller mixes: `data.replay.ratio` of all train tokens, and no more than that.
    """
    raise NotImplementedError
