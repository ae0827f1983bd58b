"""What `check` remarks on: values that are allowed and hardly ever meant. A remark stops nothing, and says why.

Bounds are wide on purpose: who stays within what any of the known suites and papers take hears nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from danlu.core.errors import RecipeError
from danlu.recipe import Recipe
from danlu.recipe.defaults import USUAL_LR
from danlu.recipe.method import StageSection

MOST_TIMES_LR, MOST_TIMES_LR_SMALL, SMALL = 10, 50, 200_000_000
"""A model of few weights wants larger steps than the usual rates, which are those of billions."""
LEAST_TIMES_LR = 1 / 50
MANY_EPOCHS = 10
LEAST_SCALE, MOST_SCALE = 0.5, 8
"""Of alpha / rank: sources take 1, 2 and, with a rank of 8 and an alpha of 32, 4."""

GATE_NEEDS = {
    "min_gain": "domain",
    "min_accuracy": "domain",
    "min_consistency": "consistency",
    "max_forget": "forgetting",
    "max_loss": "forgetting",
}
"""What a threshold of the gate can be judged by; without that task in the recipe the verdict is Hold for certain."""
NOTHING_AT_ZERO = ("min_accuracy", "min_consistency")
"""Thresholds that ask for nothing at 0; of the others 0 is the strictest, or asks for no loss."""


def remarks(recipe: Recipe, num_params: int | None) -> list[dict[str, Any]]:
    """Each as `DanluError.to_json` gives it: error, where, message, fix. `num_params` are the base's, where known."""
    found = [
        *_rates(recipe, num_params is not None and num_params < SMALL),
        *_passes(recipe),
        *_scale(recipe),
        *_unmeasured(recipe),
    ]
    return [remark.to_json() for remark in found]


def _key(recipe: Recipe, index: int, knob: str) -> str:
    """Where the value of this stage stands: in the stage's own chapter, or in the recipe's."""
    own = recipe.stages and knob in recipe.stages[index].training.model_fields_set
    return f"stages.{index}.training.{knob}" if own else f"training.{knob}"


def _rates(recipe: Recipe, is_small: bool) -> Iterator[RecipeError]:
    if recipe.model.init == "random":  # from nothing, rates are other ones, and differ by size
        return
    most = MOST_TIMES_LR_SMALL if is_small else MOST_TIMES_LR
    for index, stage in enumerate(recipe.plan_stages()):
        method, adapter, rate = stage.method.kind, recipe.adapter.kind, stage.training.lr or 0.0
        usual = USUAL_LR[method, adapter]
        if LEAST_TIMES_LR * usual <= rate <= most * usual:
            continue
        key = "pipeline.remark_lr_high" if rate > usual else "pipeline.remark_lr_low"
        yield RecipeError(
            key, where=_key(recipe, index, "lr"), given=f"{rate:g}", usual=f"{usual:g}", method=method, adapter=adapter
        )


def _passes(recipe: Recipe) -> Iterator[RecipeError]:
    """Many passes with nothing that would stop them are what learning by heart is made of."""
    for index, stage in enumerate(recipe.plan_stages()):
        training = stage.training
        if training.epochs > MANY_EPOCHS and training.max_steps is None and not _stops_early(recipe, stage):
            where = _key(recipe, index, "epochs")
            yield RecipeError("pipeline.remark_epochs", where=where, given=f"{training.epochs:g}")


def _stops_early(recipe: Recipe, stage: StageSection) -> bool:
    is_watched = recipe.data.split.validation > 0 or recipe.data.validation is not None
    return is_watched and stage.training.patience > 0


def _scale(recipe: Recipe) -> Iterator[RecipeError]:
    if recipe.adapter.kind != "lora" or recipe.adapter.alpha is None or recipe.adapter.rslora:
        return
    rank, alpha = recipe.adapter.rank, recipe.adapter.alpha
    if not LEAST_SCALE <= alpha / rank <= MOST_SCALE:
        yield RecipeError(
            "pipeline.remark_alpha", where="adapter.alpha", given=f"{alpha:g}", rank=rank, scale=f"{alpha / rank:g}"
        )


def _unmeasured(recipe: Recipe) -> Iterator[RecipeError]:
    """The gate holds what was not measured: known before anything is trained."""
    for knob, task in GATE_NEEDS.items():
        wanted = getattr(recipe.gate, knob)
        is_asked = bool(wanted) if knob in NOTHING_AT_ZERO else wanted is not None
        if is_asked and task not in recipe.evaluation.tasks:
            yield RecipeError("pipeline.remark_gate", where=f"gate.{knob}", task=task, knob=f"gate.{knob}")
