"""A recipe for two cards, tried on a CPU: two processes train it, one dies, somebody stops them, and the run goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import danlu
from tiny_company import write_recipe

from danlu.core.errors import TrainingError
from danlu.pipeline.prepare import prepare
from danlu.pipeline.start_ranks import count_ranks
from danlu.pipeline.train import train
from danlu.recipe import Recipe
from danlu.run.run import Run, list_runs
from progress_kit import Notes
from waiting_kit import until_true

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists() or torch.cuda.is_available(),
    reason="a rank is found by its environment, and here it is a CPU that trains",
)
RECIPE = """
name: shared
model: {{base: {base}}}
adapter: {{rank: 4}}
stages: [pretrain, sft]
data:
  sources: [qa.jsonl, docs/]
  split: {{test: 0.1, validation: 0.1}}
training: {{max_steps: {steps}, lr: 0.003, context: 128, batch_tokens: 256, save_every: 1, patience: 0, devices: 2}}
"""


class AtStep(Notes):
    """Does something once training has come to its third step."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.act, self.num_steps = act, 0

    def advance(self, steps: int = 1, **facts: object) -> None:
        self.num_steps += "tokens_per_s" in facts
        if self.num_steps == 3:
            self.act()


def ranks() -> dict[int, int]:
    """Which process is which rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"danlu.pipeline.rank" in (place / "cmdline").read_bytes():
                told = dict(word.partition("=")[::2] for word in (place / "environ").read_text().split("\0"))
                found[int(told["RANK"])] = int(place.name)
    return found


def test_two_ranks_train_two_stages(company: Path, base: Path) -> None:
    said = danlu("train", write_recipe(company, base, text=RECIPE, steps="3"), "--runs", "runs")
    assert said.code == 0, said.err
    assert "2 ranks train together on cpu" in said.out + said.err
    (found,) = list_runs(Path("runs"))
    run = Run.open(found)
    assert [(step["stage"], step["number"]) for step in run.events.read("step")] == [
        (stage, number) for stage in ("1-pretrain", "2-sft") for number in (1, 2, 3)
    ], "the first rank tells, and nobody else"
    again = danlu("train", company / "recipe.yaml", "training.devices=1", "--runs", "runs")
    assert again.code == 0 and "ranks train together" not in again.out + again.err, "nothing is left to be done"
    assert len(list_runs(Path("runs"))) == 1


def test_torchrun_trains_a_prepared_run(company: Path, base: Path) -> None:
    run = Run.create(Recipe.load(write_recipe(company, base, text=RECIPE, steps="2")), Path("runs"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line = [*torchrun, "-m", "danlu.pipeline.rank", str(run.folder)]
    unprepared = subprocess.run(line, capture_output=True, text=True, check=False)
    assert unprepared.returncode != 0 and "this run has not been prepared" in unprepared.stderr
    prepared = prepare(run)
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 ranks train together on cpu" in done.stderr
    assert done.stderr.count(" 1/2 loss=") == 2, "a line of figures a stage, by the first rank alone"
    assert [stage.facts["num_steps"] for stage in train(run, prepared)] == [2, 2], "found as it was trained"


def test_a_rank_that_dies_is_named_and_the_run_goes_on(company: Path, base: Path) -> None:
    run = Run.create(Recipe.load(write_recipe(company, base, text=RECIPE, steps="12")), Path("runs"))
    prepared = prepare(run)
    with pytest.raises(TrainingError, match=r"rank 1 of 2 ended in the middle of training \(exit -9\)"):
        train(run, prepared, device="cpu", progress=AtStep(lambda: os.kill(ranks()[1], signal.SIGKILL)))
    assert not ranks()
    with pytest.raises(KeyboardInterrupt):
        train(run, prepared, device="cpu", progress=AtStep(lambda: os.kill(os.getpid(), signal.SIGINT)))
    done = train(run, prepared, device="cpu")
    assert [stage.facts["num_steps"] for stage in done] == [12, 12]
    numbers = [step["number"] for step in run.events.read("step") if step["stage"] == "1-pretrain"]
    assert sorted(set(numbers)) == list(range(1, 13)) and len(numbers) <= 14, "it went on, and began nothing anew"


def test_ranks_go_when_who_started_them_is_gone(company: Path, base: Path) -> None:
    recipe = write_recipe(company, base, text=RECIPE, steps="5000")
    child = subprocess.Popen([sys.executable, "-m", "danlu", "train", str(recipe), "--runs", "runs"])
    until_true(lambda: len(ranks()) == 2)
    child.terminate()
    child.wait(20)
    until_true(lambda: not ranks())


def test_a_cpu_is_one_card_unless_it_is_told_otherwise() -> None:
    assert count_ranks("all", "cpu") == 1
    assert count_ranks(3, "cpu") == 3
