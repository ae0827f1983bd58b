"""Encoders kept apart from decoders: which base goes with which method, and the contract of classes. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from danlu.core.errors import DataError, RecipeError
from danlu.core.files import write_json
from danlu.core.messages import say
from danlu.data.classes import class_contract, is_of_classes
from danlu.data.contract import Contract
from danlu.pipeline.base import Base
from danlu.pipeline.parts import Parts
from danlu.recipe import Recipe
from danlu.recipe.complaints import Complaint
from danlu.run.run import Run


def unfit(recipe: Recipe, reach: int | None) -> Iterator[Complaint]:
    """What a base cannot be trained to; `reach` is how many tokens it reads as an encoder, None of a decoder."""
    stages = recipe.plan_stages()
    methods = [stage.method.kind for stage in stages]
    if reach is None:
        if "classify" in methods:
            yield Complaint("model.base", recipe.model.base, say("pipeline.classify_wants_encoder"))
        return
    if others := [kind for kind in methods if kind != "classify"]:
        yield Complaint("stages" if recipe.stages else "method.kind", others[0], say("pipeline.encoder_wants_classify"))
    elif (context := max(stage.training.context for stage in stages)) > reach:
        yield Complaint("training.context", context, say("pipeline.encoder_reach", reach=reach))


def refuse_unfit(recipe: Recipe, base: Base) -> None:
    """RecipeError before a row is read."""
    if complaints := list(unfit(recipe, base.reach)):
        lines = "\n".join(f"  {complaint}" for complaint in complaints)
        raise RecipeError("recipe.invalid", where=complaints[0].key, count=len(complaints), list=lines)


def store_class_contract(run: Run, base: Base, parts: Parts) -> Contract:
    """The classes of the train part with how many rows each has, and how texts are read; every later stage is held
    to it. DataError where there is nothing to tell apart."""
    rows = Counter(sample.label for sample in parts.samples("train", ("label",)) if sample.kind == "label")
    if len(rows) < 2:
        raise DataError("pipeline.one_class", where="data.sources", given=", ".join(rows) or "-")
    (stage,) = run.recipe.plan_stages()
    contract = class_contract(base.tokenizer, rows, stage.training.context, run.recipe.data.over_length)
    write_json(run.path("contract.json"), contract.to_json())
    return contract


def class_contract_of(run: Run) -> Contract | None:
    """The contract of classes in a run; None where a decoder was trained."""
    path = run.path("contract.json")
    contract = Contract.from_json(run.read("contract.json")) if path.is_file() else None
    return contract if contract is not None and is_of_classes(contract) else None
