"""A recipe that classifies: what it leaves unsaid, what is said wins, and no other recipe is touched."""

from __future__ import annotations

from typing import Any

import pytest

from danlu.recipe import Recipe
from danlu.recipe.recipe import InvalidRecipeError

SHORT: list[dict[str, Any]] = [{"method": "classify"}, {"method": {"kind": "classify"}}, {"stages": ["classify"]}]


@pytest.mark.parametrize("tree", SHORT, ids=str)
def test_what_is_left_unsaid_is_what_an_encoder_can_do(tree: dict[str, Any]) -> None:
    recipe = Recipe.from_tree(tree)
    (stage,) = recipe.plan_stages()
    assert (recipe.adapter.kind, [export.kind for export in recipe.exports]) == ("full", ["merged"])
    assert (recipe.evaluation.tasks, recipe.data.over_length) == (("domain",), "truncate-prompt")
    assert (stage.training.lr, stage.training.context, stage.training.batch_tokens) == (3e-5, 512, 4096)
    assert recipe.gate.max_forget is recipe.gate.max_loss is recipe.gate.max_probe_loss is None
    assert recipe.gate.min_gain == 0.05
    assert Recipe.from_tree(recipe.resolved()).digest == recipe.digest  # as it is stored beside the run


def test_what_is_said_wins() -> None:
    tree = {"method": "classify", "data": {"over_length": "drop"}, "training": {"lr": 1e-4, "context": 128}}
    recipe = Recipe.from_tree(tree, ["gate.min_gain=0.2"])
    assert (recipe.data.over_length, recipe.training.lr, recipe.training.batch_tokens) == ("drop", 1e-4, 4096)
    assert (recipe.gate.min_gain, recipe.gate.max_loss) == (0.2, None)
    assert Recipe.from_tree({"method": "classify", "adapter": {"masters": "none"}}).adapter.kind == "full"


def test_other_methods_keep_their_own() -> None:
    for tree in ({}, {"method": "sft"}, {"stages": ["pretrain", "sft"]}):
        recipe = Recipe.from_tree(tree)
        assert recipe.adapter.kind == "lora" and recipe.data.over_length == "drop" and len(recipe.evaluation.tasks) > 1


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("adapter=lora", "adapter.kind"), ("adapter.layers=2", "adapter.layers"), ("model.quantize=nf4", "model.quantize"), ("model.system=hi", "model.system"),
        ("model.template=chatml", "model.template"), ("training.compile=true", "training.compile"),
        ("evaluation.tasks=[probes]", "evaluation.tasks.0"), ("gate.max_loss=0.1", "gate.max_loss"),
        ("exports=[ollama]", "exports.0.kind"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_complained_of(given: str, key: str) -> None:
    with pytest.raises(InvalidRecipeError) as refused:
        Recipe.from_tree({"method": "classify"}, [given])
    assert key in [complaint.key for complaint in refused.value.complaints]
