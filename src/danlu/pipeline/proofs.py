"""What proofs ask beyond an artefact's probes: held-out questions with their judges, and which base a merge goes into
where training had a quantised one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from danlu.adapters.load import load_trained
from danlu.core.errors import EvaluationError
from danlu.core.files import sha256_json
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.classes import LabelEncoder
from danlu.data.dataset import Dataset
from danlu.data.encode import Encoder
from danlu.data.sample import Message
from danlu.engines.engine import Answer, Question
from danlu.engines.native import NativeEngine
from danlu.evaluation.items import Item, choose_items
from danlu.evaluation.tasks.task import judge
from danlu.exports.export import Quiz
from danlu.exports.quantized import Merging, Onto, choose_merging
from danlu.exports.reload import dequantize
from danlu.pipeline.assignments import Assignments
from danlu.pipeline.loading import load_base
from danlu.pipeline.open_engine import Engines, last_checkpoint, trained_digest
from danlu.run.run import Run

NUM_QUESTIONS = 24
"""Asked of every program that reads an artefact, one at a time."""
NUM_DECIDING = 200
"""Asked of our own engine, where two ways of merging are compared."""
MAX_NEW_TOKENS = 24
NUM_TEXTS = 2048
"""For exports that round on texts; what they take of them is theirs to say."""


def quiz_of(run: Run, encoder: Encoder, most: int = NUM_QUESTIONS) -> tuple[Quiz, ...]:
    """Questions that evaluating asks and training has not seen; () where the recipe has none."""
    try:
        (assignment,) = Assignments(run, encoder, Silent()).chosen(["domain"])
    except EvaluationError:
        return ()
    asked = assignment.items
    if isinstance(encoder, LabelEncoder):  # longer ones get an error, in every program
        asked = [item for item in asked if len(encoder.encode_prompt(item.messages)) <= encoder.reach]
    items = choose_items(asked, most, seed=run.recipe.data.split.seed)
    return tuple(Quiz(item.question, _judge_of(item)) for item in items)


def _judge_of(item: Item) -> Callable[[str], bool]:
    return lambda text: judge(Answer(text, "stop"), item).right


def training_texts(run: Run, most: int = NUM_TEXTS) -> list[list[int]]:
    """Token ids of items that the last stage was trained on, in an order that the recipe's seed draws. Of a pair of
    answers the one that was preferred."""
    stage = (run.outcome("prepare") or {})["stages"][-1]
    part = Dataset.open(run.path("dataset", stage)).part("train")
    order = np.random.default_rng(run.recipe.data.split.seed).permutation(len(part))[:most]
    return [part[int(item)][0].ids.tolist() for item in order]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The engine whose weights are shipped, and how it was chosen."""

    engine: NativeEngine
    merging: Merging


def choose_base(
    run: Run,
    trained: Engines,
    open_original: Callable[[], Engines],
    *,
    device: str,
    probes: list[list[Message]],
    progress: Progress,
) -> Chosen:
    """Both ways measured, once for what was trained; the choice is kept in the run."""
    section = run.recipe.model

    def on_codes() -> NativeEngine:
        model = load_base(section, seed=run.recipe.training.seed, device=device, progress=progress)
        dequantize(model)
        adapter = load_trained(last_checkpoint(run), model)
        return NativeEngine(model, trained.encoder, name=run.recipe.name, adapter=adapter)

    ways: dict[Onto, Callable[[], NativeEngine]] = {"codes": on_codes, "original": lambda: open_original().tuned}
    inputs = sha256_json([trained_digest(run), section.quantize, NUM_DECIDING])
    known = run.finished("choose-merging", inputs)
    if known is not None:
        merging = Merging(**known)
    else:
        progress.note(say("pipeline.choosing_merge", quantize=section.quantize))
        prompts = [trained.tuned.prompt_ids(Question(tuple(turns))) for turns in probes]
        quiz = quiz_of(run, trained.encoder, NUM_DECIDING)
        merging = choose_merging(trained.tuned, ways, prompts, quiz, MAX_NEW_TOKENS)
        run.finish("choose-merging", inputs, merging.to_json())
    return Chosen(ways[merging.taken](), merging)
