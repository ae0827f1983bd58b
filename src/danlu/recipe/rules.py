"""Rules between knobs, each a named function: what is right alone and wrong together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from danlu.core.messages import say
from danlu.recipe.complaints import Complaint

if TYPE_CHECKING:
    from danlu.recipe.recipe import Recipe


def broken_rules(recipe: Recipe, tree: dict[str, Any]) -> list[Complaint]:
    """All complaints; `tree` is the recipe as written, for rules about what was written."""
    return [
        *_method_or_stages(tree),
        *_micro_tokens_hold_a_context(recipe),
        *_something_is_left_to_train_on(recipe),
    ]


def _method_or_stages(tree: dict[str, Any]) -> Iterator[Complaint]:
    if tree.get("method") is not None and tree.get("stages"):
        yield Complaint("method", tree["method"], say("recipe.method_or_stages"), "stages")


def _micro_tokens_hold_a_context(recipe: Recipe) -> Iterator[Complaint]:
    """A sample is computed in one piece: what is computed at once cannot be less than the longest sample."""
    stages = [(f"stages.{i}.training.micro_tokens", stage.training) for i, stage in enumerate(recipe.stages)]
    for key, own in stages or [("training.micro_tokens", recipe.training)]:
        training = recipe.training.model_copy(update=own.model_dump(exclude_unset=True))
        if training.micro_tokens is not None and training.micro_tokens < training.context:
            named = key if "micro_tokens" in own.model_fields_set else "training.micro_tokens"
            yield Complaint(named, training.micro_tokens, say("recipe.micro_tokens", context=training.context))


def _something_is_left_to_train_on(recipe: Recipe) -> Iterator[Complaint]:
    held_out = recipe.data.split.test + recipe.data.split.validation
    if held_out >= 1:
        yield Complaint("data.split", held_out, say("recipe.below", value=1))
