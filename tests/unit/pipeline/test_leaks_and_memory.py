"""Seen questions are found in any kind of sample; memory that runs out names the knob."""

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from danlu.core.errors import TrainingError
from danlu.core.files import read_json, write_json
from danlu.data.sample import Conversation, Document, Label, Message, Origin, Sample
from danlu.data.samples_file import read_samples, write_samples
from danlu.data.split import fold
from danlu.pipeline.device import saying_when_memory_ends
from danlu.pipeline.leaks import asked, without_leaks, write_prompts
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
    fresh = [
        chat("How many cups of green tea does the office kitchen give to each guest of ours?"),
        chat("How much are they?"),
        chat("How much is it?", "And how?"),
        Label("Great camera", "good", HERE),
    ]
    near = [chat("How much, how very much, is this fine and lovely old thing over there?")]
    write_json(
        run.path("dataset", "prompts.json"),
        [
            *(fold(text) for sample in trained for text in asked(sample)),
            fold("How much, how very much, is that fine and lovely old thing over there?"),
            fold("How many cups of green tea does the office kitchen give to one guest of theirs?"),
        ],
    )
    sifted = without_leaks([*seen, *near, *fresh], run)
    assert sifted.kept == fresh and sifted.num_leaks == 4
    assert 0.6 < sifted.nearest < 0.8


def test_forms_are_asked_and_long_questions_are_compared(tmp_path: Path) -> None:
    """Filled in fifty times, a form makes all its rows alike; the split parts them, so they may be asked."""
    form = "Please write a polite letter of reply to this customer of our shop, and name the product in it: {}"
    words = [f"{number * 7919 % 10007} {'abcdefghijklmnopqrstuvwxyz'[number % 26] * 9}" for number in range(120)]
    dice = random.Random(3)
    long = "".join(dice.choice("天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏") for _ in range(900))
    run = Run.create(Recipe.from_tree({}), tmp_path)
    write_json(run.path("dataset", "prompts.json"), [*(fold(form.format(word)) for word in words[:100]), fold(long)])
    asking = [chat(form.format(word)) for word in words[100:]]
    sifted = without_leaks([*asking, chat(long[:400] + "冬" + long[401:]), chat(long[::-1])], run)
    assert sifted.kept == [*asking, chat(long[::-1])] and sifted.num_leaks == 1


def test_memory_that_ends_names_the_knob() -> None:
    with pytest.raises(TrainingError, match="micro_tokens"), saying_when_memory_ends("training"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")


def test_a_million_samples_are_written_as_they_come(tmp_path: Path) -> None:
    """All test rows, and all prompts of the train part, stood in memory several times over before a byte was written."""
    num, size = 2000, 5000

    def samples() -> Iterator[Sample]:
        for number in range(num):
            yield chat(f"{number}: " + "x" * size)
            yield chat("the same again?")

    for write, back in ((write_samples, read_samples), (write_prompts, read_json)):
        path = tmp_path / write.__name__
        tracemalloc.start()
        write(path, samples())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert path.stat().st_size > num * size and peak < num * size / 5
        assert len(back(path)) == (2 * num if write is write_samples else num + 1)
    assert write_prompts(tmp_path / "none", [Document("text", HERE)]) == 0 and read_json(tmp_path / "none") == []
    assert write_prompts(tmp_path / "two", [chat("Why?", "how"), chat("WHY")]) == 2
    assert read_json(tmp_path / "two") == [fold("why"), fold("how")]
