"""Seen questions are found in any kind of sample; memory that runs out names the knob."""

from pathlib import Path

import pytest
import torch

from danlu.core.errors import TrainingError
from danlu.core.files import write_json
from danlu.data.sample import Conversation, Document, Label, Message, Origin
from danlu.data.split import fold
from danlu.pipeline.device import saying_when_memory_ends
from danlu.pipeline.leaks import asked, without_leaks
from danlu.recipe import Recipe
from danlu.run.run import Run

HERE = Origin("a.jsonl", 1)


def chat(*questions: str) -> Conversation:
    turns = [turn for question in questions for turn in (Message("user", question), Message("assistant", "so"))]
    return Conversation(tuple(turns), HERE)


def test_seen_questions_are_found_in_any_dress(tmp_path: Path) -> None:
    run = Run.create(Recipe.from_tree({}), tmp_path)
    trained = [chat("How much is it?", "And why?"), Label("Great phone", "good", HERE), Document("How much?", HERE)]
    write_json(run.path("dataset", "prompts.json"), [fold(text) for sample in trained for text in asked(sample)])
    seen = [chat("how MUCH, is it"), chat("new", "And why"), Label("  great PHONE!", "bad", HERE)]
    fresh = [chat("How much are they?"), chat("How much is it?", "And how?"), Label("Great camera", "good", HERE)]
    near = [chat("How much, how very much, is this fine and lovely old thing over there?")]
    write_json(
        run.path("dataset", "prompts.json"),
        [
            *(fold(text) for sample in trained for text in asked(sample)),
            fold("How much, how very much, is that fine and lovely old thing over there?"),
        ],
    )
    sifted = without_leaks([*seen, *near, *fresh], run)
    assert sifted.kept == fresh and sifted.num_leaks == 4
    assert 0.3 < sifted.nearest < 0.8


def test_memory_that_ends_names_the_knob() -> None:
    with pytest.raises(TrainingError, match="micro_tokens"), saying_when_memory_ends("training"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
