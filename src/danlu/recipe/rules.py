"""Rules between knobs, each a named function: what is right alone and wrong together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from danlu.core.messages import say
from danlu.recipe.adapter import AdapterSection, FullSection
from danlu.recipe.complaints import Complaint
from danlu.recipe.data import SplitSection
from danlu.recipe.method import GRPOSection, MethodSection, StageSection
from danlu.recipe.training import TrainingSection


def broken_rules(
    tree: dict[str, Any],
    training: TrainingSection,
    stages: Sequence[StageSection],
    split: SplitSection,
    quantize: str,
    adapter: AdapterSection,
    method: MethodSection,
) -> list[Complaint]:
    """All complaints of a recipe's chapters; `tree` is the recipe as written, for rules about what was written."""
    return [
        *_method_or_stages(tree),
        *_micro_tokens_hold_a_context(training, stages),
        *_something_is_left_to_train_on(split),
        *_only_weights_train(quantize, adapter.kind),
        *_masters_to_offload(adapter),
        *_what_several_cards_can(training, stages, adapter),
        *_some_reward_counts(method, stages),
    ]


def _method_or_stages(tree: dict[str, Any]) -> Iterator[Complaint]:
    if tree.get("method") is not None and tree.get("stages"):
        yield Complaint("method", tree["method"], say("recipe.method_or_stages"), "stages")


def _micro_tokens_hold_a_context(training: TrainingSection, stages: Sequence[StageSection]) -> Iterator[Complaint]:
    """A sample is computed in one piece: what is computed at once cannot be less than the longest sample."""
    chapters = [(f"stages.{i}.training.micro_tokens", stage.training) for i, stage in enumerate(stages)]
    for key, own in chapters or [("training.micro_tokens", training)]:
        whole = training.model_copy(update=own.model_dump(exclude_unset=True))
        if whole.micro_tokens is not None and whole.micro_tokens < whole.context:
            named = key if "micro_tokens" in own.model_fields_set else "training.micro_tokens"
            yield Complaint(named, whole.micro_tokens, say("recipe.micro_tokens", context=whole.context))


def _something_is_left_to_train_on(split: SplitSection) -> Iterator[Complaint]:
    held_out = split.test + split.validation
    if held_out >= 1:
        yield Complaint("data.split", held_out, say("recipe.below", value=1))


def _only_weights_train(quantize: str, adapter: str) -> Iterator[Complaint]:
    """A base in few bits is frozen by nature."""
    if quantize != "none" and adapter == "full":
        yield Complaint("model.quantize", quantize, say("recipe.quantize_full"))


def _masters_to_offload(adapter: AdapterSection) -> Iterator[Complaint]:
    """What is not there cannot lie elsewhere."""
    if isinstance(adapter, FullSection) and adapter.offload == "masters" and adapter.masters == "none":
        yield Complaint("adapter.offload", adapter.offload, say("recipe.offload_masters"))


def _what_several_cards_can(
    training: TrainingSection, stages: Sequence[StageSection], adapter: AdapterSection
) -> Iterator[Complaint]:
    """The same cards train every stage; each holds all weights and states, and each would compile for itself."""
    chapters = [(f"stages.{i}.training", stage.training) for i, stage in enumerate(stages)]
    for key, own in chapters:
        if "devices" in own.model_fields_set and own.devices != training.devices:
            yield Complaint(f"{key}.devices", own.devices, say("recipe.devices_of_a_stage"), "training.devices")
    if training.devices == 1:
        return
    if isinstance(adapter, FullSection) and adapter.offload != "none":
        yield Complaint("adapter.offload", adapter.offload, say("recipe.devices_offload"))
    for key, own in [("training", training), *chapters]:
        if own.compile:
            yield Complaint(f"{key}.compile", own.compile, say("recipe.devices_compile"))


def _some_reward_counts(method: MethodSection, stages: Sequence[StageSection]) -> Iterator[Complaint]:
    """Weights of 0 only report; all of them 0, and every answer is as good as any other."""
    chapters = [(f"stages.{i}.method.rewards", stage.method) for i, stage in enumerate(stages)]
    for key, own in chapters or [("method.rewards", method)]:
        if isinstance(own, GRPOSection):
            weights = own.rewards.values()
            if not any(weights) or not all(map(math.isfinite, weights)):
                yield Complaint(key, own.rewards, say("recipe.some_reward"))
