"""What training is told once its data is there: the true lengths decide, and a stage goes on as it began."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from danlu.core.files import read_json, write_json
from danlu.core.progress import Silent
from danlu.data.dataset import Dataset
from danlu.data.tokens import Tokens
from danlu.model.hub import embedded_folder
from danlu.pipeline.plan_training import keep_plan, kept_micro_tokens, plan_training
from danlu.pipeline.prepare import StageData
from danlu.pipeline.train import _Desk, _planner_of, build_adapter
from danlu.planning.bases import BASES
from danlu.planning.cards import CARDS
from danlu.planning.plan import Limits, Plan, choose
from danlu.planning.work import Work, leaves_micro_tokens
from danlu.recipe import Recipe
from danlu.run.run import Run
from danlu.training.methods.sft import SFT
from danlu.training.trainer import Trainer

CONFIG = read_json(embedded_folder() / "config.json")


def tokens(length: int, learnt: int) -> Tokens:
    weights = np.zeros(length, dtype=np.uint8)
    weights[length - learnt :] = 1
    return Tokens(np.ones(length, dtype=np.int32), weights)


def dataset(folder: Path, *lengths: int, pairs: bool = False) -> Dataset:
    items = [[tokens(n, n // 4)] * (2 if pairs else 1) for n in lengths]
    return Dataset.write(folder, {"train": items})


def planned(data: Dataset, tree: dict[str, object], **known: int) -> Plan:
    recipe = Recipe.from_tree({"training": {"context": 512, "batch_tokens": 4096, "epochs": 2}} | tree)
    found = plan_training(recipe, 0, data, CONFIG, device="cpu", **known)
    assert found is not None and found.card is not None and found.card.kind == "cpu"
    return found


def test_what_the_dataset_knows_is_not_guessed(tmp_path: Path) -> None:
    found = planned(dataset(tmp_path / "d", 100, 100, 200), {})
    assert found.work.supervised_ratio == pytest.approx(0.25)
    assert found.work.document == (100 * 100 * 2 + 200 * 200) // 400, "of the document that a token stands in"
    assert found.work.context == 200 and found.work.num_steps == 1
    assert found.work.micro_tokens == 4096 and not found.has_chosen_tokens, "a CPU computes the recipe's whole step"


def test_a_pair_is_two_documents_in_one_piece(tmp_path: Path) -> None:
    found = planned(dataset(tmp_path / "d", 300, 300, pairs=True), {"method": "dpo"})
    assert found.work.context == 300 and found.work.document == 300 and found.work.min_micro_tokens == 600


def test_tokens_that_the_recipe_names_are_kept_unless_an_item_is_longer(tmp_path: Path) -> None:
    given = {"training": {"context": 512, "batch_tokens": 4096, "micro_tokens": 512}}
    assert planned(dataset(tmp_path / "a", 100), given).work.micro_tokens == 512
    assert planned(dataset(tmp_path / "b", 700), given).work.micro_tokens == 700


def test_a_run_leaves_open_what_its_recipe_left_open(tmp_path: Path) -> None:
    """A run keeps its recipe filled in: `danlu plan` chose tokens at once, and `danlu train` computed the whole step."""
    open_recipe = Recipe.from_tree({"training": {"batch_tokens": 4096, "context": 512}})
    fixed_recipe = Recipe.from_tree({"training": {"batch_tokens": 4096, "context": 512, "micro_tokens": 1024}})
    for recipe, is_open in ((open_recipe, True), (fixed_recipe, False)):
        run = Run.create(recipe, tmp_path)
        assert leaves_micro_tokens(recipe, 0) == leaves_micro_tokens(run.recipe, 0) == is_open


def test_an_interrupted_stage_goes_on_with_the_tokens_it_began_with(tmp_path: Path) -> None:
    run = Run.create(Recipe.from_tree({}), tmp_path)
    data = dataset(tmp_path / "d", 100, 200)
    for name in ("1-sft", "2-dpo"):
        run.path("checkpoints", name, "step-00000001").mkdir(parents=True)
    assert kept_micro_tokens(run, "1-sft") is None
    keep_plan(run, "1-sft", planned(data, {}, micro_tokens=1000))
    keep_plan(run, "2-dpo", planned(data, {}))
    keep_plan(run, "2-dpo", planned(data, {}, micro_tokens=2000))
    assert (kept_micro_tokens(run, "1-sft"), kept_micro_tokens(run, "2-dpo")) == (1000, 2000)
    assert [stage["name"] for stage in read_json(run.path("plan.json"))["stages"]] == ["1-sft", "2-dpo"]
    again = planned(data, {}, micro_tokens=1000)
    assert again.work.micro_tokens == 1000 and not again.has_chosen_tokens


def test_a_checkpoint_tells_what_it_began_with_where_no_plan_was_kept(tmp_path: Path) -> None:
    """Runs from before plan.json, and those whose plan.json tells of another beginning."""
    run = Run.create(Recipe.from_tree({}), tmp_path)
    keep_plan(run, "1-sft", planned(dataset(tmp_path / "d", 100), {}, micro_tokens=700))
    assert kept_micro_tokens(run, "1-sft") is None, "nothing was trained yet: it may begin as it likes"
    state = run.path("checkpoints", "1-sft", "step-00000002", "state.json")
    state.parent.mkdir(parents=True)
    write_json(state, {"identity": {"training.micro_tokens": 900}})
    assert kept_micro_tokens(run, "1-sft") == 900


def test_a_stage_that_a_gpu_began_goes_on_on_a_cpu(tmp_path: Path) -> None:
    """The planner chose 256 tokens for some card; here it would take the whole step, and refuse the checkpoint."""
    tree = {
        "model": {"base": "ember"}, "adapter": {"kind": "lora", "rank": 2},
        "training": {"context": 256, "batch_tokens": 512, "max_steps": 2, "save_every": 1, "lr": 1e-4},
        "data": {"split": {"test": 0.0, "validation": 0.0}},
    }  # fmt: skip
    run = Run.create(Recipe.from_tree(tree), tmp_path)
    data = dataset(tmp_path / "d", 100, 120, 90, 110)
    desk = _Desk(run, "cpu", Silent())
    attached = build_adapter(run.recipe.adapter, 1).attach(desk.model)
    section, policies, _ = desk._plan(0, StageData("1-sft", data), attached)
    assert section.micro_tokens == 512 and policies == (), "everything fits: nothing is asked for"
    began = section.model_copy(update={"micro_tokens": 256})
    folder = run.path("checkpoints", "1-sft")
    trainer = Trainer(desk.model, attached, SFT(), data, section=began, folder=folder)
    next(iter(trainer.steps()))
    desk = _Desk(run, "cpu", Silent())
    attached = build_adapter(run.recipe.adapter, 1).attach(desk.model)
    section, *_ = desk._plan(0, StageData("1-sft", data), attached)
    assert section.micro_tokens == 256
    assert Trainer(desk.model, attached, SFT(), data, section=section, folder=folder).number == 1


def test_any_way_to_name_a_device_is_understood(tmp_path: Path) -> None:
    recipe, data = Recipe.from_tree({}), dataset(tmp_path / "d", 9)
    found = plan_training(recipe, 0, data, CONFIG, device="cpu:0")
    assert found is not None and found.card is not None and found.card.kind == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises((AssertionError, RuntimeError)):
            plan_training(recipe, 0, data, CONFIG, device="cuda:1")


def test_a_model_without_shapes_has_no_plan(tmp_path: Path) -> None:
    assert plan_training(Recipe.from_tree({}), 0, dataset(tmp_path / "d", 9), {"model_type": "x"}, device="cpu") is None


def test_where_memory_ends_training_asks_for_the_next_leaner_plan() -> None:
    """Names in, names out; from what the training has come to, not from where it began."""
    work = Work(BASES["qwen2.5-7b"], 2048, 16_384, 16_384)
    ask = _planner_of(choose(work, CARDS["H200"], Limits(60 * 2**30, 90 * 2**30)))
    policies: tuple[str, ...] = ("all",) * 28
    for _ in range(3):
        again = ask(policies)
        assert again is not None and len(again) == 28 and again != policies
        policies = tuple(again)
    assert ask(("input-host",) * 28) is None
