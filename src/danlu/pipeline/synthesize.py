"""Synthesis and augmentation of a recipe: opens the teacher that the recipe names and hands it to `data`.

Called by prepare: `synthesize` after privacy and twins, before the split; `vary` on the train part, after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from danlu.core.messages import say
from danlu.core.progress import Progress
from danlu.data.augment import AUGMENTERS, augment
from danlu.data.ledger import Ledger
from danlu.data.sample import Conversation, Document, Sample
from danlu.data.synthesis import Reading, synthesise
from danlu.engines.cache import AnswerCache
from danlu.evaluation.fold import fold
from danlu.evaluation.metrics.refusal import says_not_stated
from danlu.pipeline.local_teacher import LocalTeacher
from danlu.pipeline.remote_teacher import RemoteTeacher
from danlu.pipeline.teacher import open_teacher
from danlu.recipe.recipe import Recipe

READING = Reading(fold, says_not_stated)
"""Data that is made is held to the same reading as the answers that are judged."""


def wants_synthesis(recipe: Recipe) -> bool:
    """Whether the recipe asks for anything to be made."""
    section = recipe.data.synthesis
    return bool(section.questions or section.instructions or section.preferences)


def synthesize(
    recipe: Recipe,
    samples: Sequence[Sample],
    seeds: Sequence[Sample],
    folder: Path,
    cache_folder: Path,
    ledger: Ledger,
    progress: Progress,
) -> list[Sample]:
    """What a teacher makes of the documents among `samples`, and pairs of the conversations; [] where the recipe asks
    for nothing.

    `seeds` are the rows of `data.synthesis.seeds`, which went the same way as the sources (privacy included). `folder`
    gets `yield.json` and `refused.jsonl`; `cache_folder` holds the teacher's replies and may serve many runs.
    """
    if not wants_synthesis(recipe):
        return []
    section = recipe.data.synthesis
    documents = [sample for sample in samples if isinstance(sample, Document)]
    answered = [sample for sample in samples if isinstance(sample, Conversation)]
    if section.questions and not documents:
        progress.note(say("synthesis.no_documents"))
    teacher = open_teacher(
        recipe.data.teacher, recipe.model, cache_folder, seed=recipe.training.seed, progress=progress
    )
    base = _base_of(recipe, teacher, cache_folder, progress) if section.preferences else None
    try:
        return synthesise(
            documents, seeds, section, teacher, folder, ledger, progress, reading=READING, base=base, answered=answered
        )
    finally:
        for asked in (teacher, base):
            if isinstance(asked, LocalTeacher):
                asked.close()


def vary(recipe: Recipe, train: Iterable[Sample], cache_folder: Path, progress: Progress) -> list[Sample]:
    """Variants of train samples (only the variants), which are gone through more than once; [] where the recipe names
    no method."""
    section = recipe.data.augment
    if not section.methods:
        return []
    methods = [AUGMENTERS.load(name, where="data.augment.methods") for name in section.methods]
    if not any(method.needs_teacher for method in methods):
        return augment(train, section, None, reading=READING, progress=progress)
    teacher = open_teacher(
        recipe.data.teacher, recipe.model, cache_folder, seed=recipe.training.seed, progress=progress
    )
    try:
        return augment(train, section, teacher, reading=READING, progress=progress)
    finally:
        if isinstance(teacher, LocalTeacher):
            teacher.close()


def _base_of(
    recipe: Recipe, teacher: RemoteTeacher | LocalTeacher, cache_folder: Path, progress: Progress
) -> LocalTeacher:
    """The base as who answers; the teacher itself where it is the base, so that its weights are loaded once."""
    if isinstance(teacher, LocalTeacher) and teacher.section == recipe.model:
        return teacher
    return LocalTeacher(recipe.model, AnswerCache(cache_folder), seed=recipe.training.seed, progress=progress)
