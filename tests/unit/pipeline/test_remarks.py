"""check remarks on what is allowed and hardly ever meant, and on a gate that nothing in the recipe can satisfy."""

from pathlib import Path
from typing import Any

import pytest

from danlu.pipeline.check import check
from danlu.pipeline.remarks import remarks
from danlu.recipe import Recipe

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))


EMBER, LARGE = 15_738_880, 7_615_616_512


def keys(num_params: int | None = EMBER, **tree: Any) -> set[tuple[str, str]]:
    """(where, which remark) of all that is remarked on in a recipe with these chapters."""
    recipe = Recipe.from_tree({"name": "t", "model": "ember"} | tree)
    return {(one["where"], one["error"].removeprefix("pipeline.remark_")) for one in remarks(recipe, num_params)}


def test_a_recipe_of_defaults_hears_nothing() -> None:
    assert keys() == set()
    assert keys(adapter="full") == set()
    assert keys(stages=["pretrain", "sft", "dpo"]) == set()


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_recipes_that_come_with_danlu_hear_nothing(path: Path) -> None:
    assert remarks(Recipe.load(path), EMBER if path.stem.startswith("ember") else LARGE) == []


def test_rates_far_from_the_usual_one_of_method_and_adapter() -> None:
    assert keys(LARGE, training={"lr": 3e-3}) == keys(None, training={"lr": 3e-3}) == {("training.lr", "lr_high")}
    assert keys(EMBER, training={"lr": 3e-3}) == set()  # so small a model learns with it
    assert keys(training={"lr": 0.1}) == {("training.lr", "lr_high")}
    assert keys(training={"lr": 1e-6}) == {("training.lr", "lr_low")}
    assert keys(training={"lr": 1e-6}, method="dpo", adapter="full") == set()
    stages = ["sft", {"kind": "dpo", "training": {"lr": 0.5}}]
    assert keys(stages=stages) == {("stages.1.training.lr", "lr_high")}


def test_many_passes_are_remarked_on_only_where_nothing_ends_them() -> None:
    assert keys(training={"epochs": 30}) == set()
    assert keys(training={"epochs": 30, "patience": 0}) == {("training.epochs", "epochs")}
    assert keys(training={"epochs": 30}, data={"split": {"validation": 0}}) == {("training.epochs", "epochs")}
    assert keys(training={"epochs": 30, "patience": 0, "max_steps": 5}) == set()


def test_alpha_that_was_not_moved_with_the_rank() -> None:
    assert keys(adapter={"rank": 64, "alpha": 16}) == {("adapter.alpha", "alpha")}
    assert keys(adapter={"rank": 8, "alpha": 32}) == set()
    assert keys(adapter={"rank": 64, "alpha": 16, "rslora": True}) == set()


def test_a_gate_that_can_only_hold_is_told_before_training_and_null_does_without() -> None:
    """Leaving forgetting out of evaluation.tasks made every verdict Hold, after hours; the remedy could not be taken,
    for max_forget did not accept null."""
    only_domain = {"tasks": ["domain"]}
    assert keys(evaluation=only_domain) == {("gate.max_forget", "gate"), ("gate.max_loss", "gate")}
    assert keys(evaluation=only_domain, gate={"max_forget": None, "max_loss": None}) == set()
    asked = keys(evaluation={"tasks": ["forgetting"]}, gate={"min_consistency": 0.5, "min_accuracy": None})
    assert asked == {("gate.min_gain", "gate"), ("gate.min_consistency", "gate")}
    no_loss = {"min_gain": 0, "max_forget": 0, "max_loss": 0, "min_accuracy": 0, "min_consistency": 0}
    asked = keys(evaluation={"tasks": ["edge"]}, gate=no_loss)
    assert asked == {(f"gate.{knob}", "gate") for knob in ("min_gain", "max_forget", "max_loss")}, "0 asks as well"


def test_remarks_stand_among_the_warnings_of_check_and_stop_nothing(tmp_path: Path) -> None:
    source = tmp_path / "qa.jsonl"
    source.write_text('{"question": "a?", "answer": "b"}\n', encoding="utf-8")
    recipe = Recipe.from_tree({"model": "ember", "data": str(source), "training": {"lr": 0.5}})
    found = check(recipe)
    assert found["ok"]
    assert [one["error"] for one in found["warnings"]] == ["pipeline.remark_lr_high"]
