"""The plan of a stage whose data is prepared, on the device that is there: what training is told to keep and where.

What `danlu plan` guesses is known here: tokens learnt, lengths of documents, steps, free memory. Tokens at once, where
the recipe leaves them open, are chosen when a stage begins and kept in the run's `plan.json`: they decide which items
share a piece, so an interrupted stage goes on with those it began with, on whatever card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import torch

from danlu.core.files import read_json, write_json
from danlu.data.dataset import Dataset
from danlu.pipeline.plan import pinned_bytes, this_cpu
from danlu.planning.cards import Card, seen_card
from danlu.planning.plan import Limits, Plan, choose
from danlu.planning.shapes import Shapes
from danlu.planning.work import leaves_micro_tokens, work_of
from danlu.recipe import Recipe
from danlu.run.run import Run
from danlu.training.checkpoint import STATE, find_last


def plan_training(
    recipe: Recipe, index: int, dataset: Dataset, config: Mapping[str, Any], *, device: str,
    micro_tokens: int | None = None, has_quick_form: bool = True, num_ranks: int = 1,
) -> Plan | None:  # fmt: skip
    """The plan of `recipe.plan_stages()[index]` on this device; None for a model that has no shapes to plan by.
    `config` is the base's config.json; `micro_tokens` those that an interrupted training began with;
    `has_quick_form` whether the blocks can follow policies, as far as it is known. Asked before the weights are loaded
    or after, it finds the same room."""
    shapes = Shapes.read(dict(config))
    if shapes is None:
        return None
    card, limits = _device(device)
    stage = recipe.plan_stages()[index]
    part = dataset.card.parts["train"]
    num_documents = 2 if stage.method.kind == "dpo" else 1
    lengths = dataset.part("train").lengths
    supervised_ratio, num_copies = part["supervised_ratio"], 1
    if stage.method.num_answers:  # a row's own answer gives way to a group of drawn ones
        lengths = lengths - dataset.part("train").supervised + stage.method.answer_tokens
        supervised_ratio = min(1.0, stage.method.answer_tokens * len(lengths) / max(1, int(lengths.sum())))
        num_copies = stage.method.num_answers
    tokens = int(lengths.sum())
    work = work_of(
        recipe, stage, shapes,
        supervised_ratio=supervised_ratio,
        document_tokens=int((lengths**2).sum() / max(1, tokens)) // num_documents or 1,
        num_steps=max(1, round(stage.training.epochs * num_copies * tokens / stage.training.batch_tokens)),
        has_16bit=card.flops_16 > card.flops_32,
    )  # fmt: skip
    longest = int(lengths.max(initial=1))  # an item is computed in one piece
    may_choose = micro_tokens is None and leaves_micro_tokens(recipe, index)
    fixed = max(longest, micro_tokens or work.micro_tokens)
    work = replace(
        work, context=-(-longest // num_documents), longest_tokens=longest, micro_tokens=fixed,
        batch_tokens=max(work.batch_tokens, fixed), has_no_quick_form=not has_quick_form,
        num_ranks=num_ranks,
    )  # fmt: skip
    return choose(work, card, limits, may_choose_tokens=may_choose)


def keep_plan(run: Run, name: str, plan: Plan) -> None:
    """Write a stage's plan into the run's `plan.json`, beside those of other stages."""
    others = [stage for stage in _kept(run) if stage["name"] != name]
    write_json(run.path("plan.json"), {"stages": [*others, {"name": name} | plan.to_json()]})


def kept_micro_tokens(run: Run, name: str) -> int | None:
    """Tokens at once that a stage of this run began with, whatever the device was; None where it has not begun. Its
    checkpoint knows best; an unreadable one leaves what `plan.json` says."""
    last = find_last(run.path("checkpoints", name))
    if last is None:
        return None
    try:
        return int(read_json(last / STATE)["identity"]["training.micro_tokens"])
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError):
        found = [stage["tokens_at_once"] for stage in _kept(run) if stage["name"] == name]
        return found[0] if found else None


def _kept(run: Run) -> list[dict[str, Any]]:
    try:
        stages: list[dict[str, Any]] = read_json(run.path("plan.json"))["stages"]
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError):
        return []
    return stages


def _device(device: str) -> tuple[Card, Limits]:
    """The device as a card, and what is free there: what this process holds already counts as free."""
    if torch.device(device).type != "cuda":
        card = this_cpu()
        return card, Limits.of(card)
    facts = torch.cuda.get_device_properties(device)
    card = seen_card(facts.name, facts.total_memory, (facts.major, facts.minor))
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return card, Limits.of(card, free_bytes=free, host_bytes=pinned_bytes())
