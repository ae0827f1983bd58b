"""A mistyped metric is named before training, not after it."""

from __future__ import annotations

from danlu.pipeline.check import check
from danlu.recipe import Recipe


def test_a_mistyped_metric_is_named_with_the_nearest() -> None:
    tree = {
        "name": "t", "model": {"base": "nowhere"}, "method": {"kind": "sft"},
        "evaluation": {"metric": "rougel", "beside": ["bleu", "chrF2"]},
    }  # fmt: skip
    errors = check(Recipe.from_tree(tree, file="recipe.yaml"))["errors"]
    told = {one["key"]: one["nearest"] for one in errors if one["key"].startswith("evaluation")}
    assert told == {"evaluation.metric": "rouge_l", "evaluation.beside.1": "chrf"}


def test_a_mistyped_reward_is_named_with_the_nearest() -> None:
    tree = {"name": "t", "model": {"base": "nowhere"}, "method": {"kind": "grpo", "rewards": {"exakt": 1, "json": 0.2}}}
    (error,) = (one for one in check(Recipe.from_tree(tree))["errors"] if one["key"].startswith("method"))
    assert (error["key"], error["nearest"]) == ("method.rewards.exakt", "exact")
    chained = {"name": "t", "model": {"base": "nowhere"}, "stages": ["sft", {"kind": "grpo", "rewards": {"jsn": 1}}]}
    (error,) = (one for one in check(Recipe.from_tree(chained))["errors"] if one["key"].startswith("stages"))
    assert (error["key"], error["nearest"]) == ("stages.1.method.rewards.jsn", "json")
