"""The Recipe: everything a person decides, frozen and hashable. Loads and checks without torch, at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from danlu.core.errors import RecipeError
from danlu.core.files import sha256_json
from danlu.recipe.adapter import AdapterSection, LoRASection
from danlu.recipe.classify import beyond_classes, classifies, fill_classify
from danlu.recipe.complaints import Complaint, complaints_of
from danlu.recipe.data import DataSection
from danlu.recipe.defaults import fill_training
from danlu.recipe.evaluation import EvaluationSection, GateSection
from danlu.recipe.exports import ExportSection
from danlu.recipe.file import tree_of
from danlu.recipe.later import counted
from danlu.recipe.method import MethodSection, SFTSection, StageSection
from danlu.recipe.model import ModelSection
from danlu.recipe.overrides import anchor_paths, apply_overrides
from danlu.recipe.round import RoundSection
from danlu.recipe.rules import broken_rules
from danlu.recipe.section import Section
from danlu.recipe.serving import ServingSection
from danlu.recipe.tracking import TrackingSection
from danlu.recipe.training import TrainingSection

OUTSIDE = ("tracking", "serving")
"""Chapters that decide nothing of what comes out: who looks on, and who is answered afterwards."""


class InvalidRecipeError(RecipeError):
    """A recipe with one or more complaints, each naming key, given value, what was expected and the nearest key."""

    def __init__(self, complaints: Sequence[Complaint], file: str = "") -> None:
        self.complaints = tuple(complaints)
        super().__init__(
            "recipe.invalid", where=file, count=len(self.complaints), list="\n".join(f"  {c}" for c in self.complaints)
        )


class Recipe(Section):
    """A whole recipe. `Recipe.load` reads YAML or JSON with `a.b=c` overrides; `resolved` fills what was left open."""

    name: str = Field("expert", pattern=r"^[\w][\w.\-]{0,63}$")
    """Name of the run and of what it ships."""

    model: ModelSection = ModelSection()
    """Which weights to start from."""

    adapter: AdapterSection = Field(default_factory=LoRASection)
    """Which weights train."""

    data: DataSection = DataSection()
    """What is read."""

    method: MethodSection = Field(default_factory=SFTSection)
    """What is learnt, when there is one stage."""

    stages: tuple[StageSection, ...] = ()
    """Several methods in a row, each starting from the last one's output; takes the place of `method`."""

    training: TrainingSection = TrainingSection()
    """The loop's numbers, for all stages."""

    evaluation: EvaluationSection = EvaluationSection()
    """What is asked of base and tuned model."""

    gate: GateSection = GateSection()
    """What counts as good enough to ship."""

    exports: tuple[ExportSection, ...] = (ExportSection(kind="adapter"), ExportSection(kind="merged"))
    """What is shipped."""

    serving: ServingSection = ServingSection()
    """How what is shipped is served; no part of what a run is."""

    tracking: TrackingSection = TrackingSection()
    """Who is shown a run while it works; no part of what a run is."""

    round: RoundSection = RoundSection()
    """What the next training is held against, and promoted to."""

    @model_validator(mode="before")
    @classmethod
    def _expand_short_forms(cls, tree: Any) -> Any:
        """A plain path is a source, a bare word a stage or an export: what people write, made whole."""
        if not isinstance(tree, dict):
            return tree
        tree = dict(tree)
        if isinstance(data := tree.get("data"), dict) and isinstance(sources := data.get("sources"), str | list):
            listed = [sources] if isinstance(sources, str) else sources
            tree["data"] = data | {"sources": [{"path": s} if isinstance(s, str) else s for s in listed]}
        if isinstance(stages := tree.get("stages"), list):
            tree["stages"] = [_whole_stage(stage) for stage in stages]
        if isinstance(exports := tree.get("exports"), list):
            tree["exports"] = [{"kind": e} if isinstance(e, str) else e for e in exports]
        for chapter, default in (("adapter", "full" if classifies(tree) else "lora"), ("method", "sft")):
            if isinstance(word := tree.get(chapter), str):
                tree[chapter] = {"kind": word}
            elif isinstance(word, dict) and "kind" not in word:
                tree[chapter] = {"kind": default} | word
        return fill_classify(tree)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe file. Relative paths in it are relative to it; those in overrides to the current folder."""
        path = Path(path)
        if not path.is_file():
            raise RecipeError("recipe.no_file", where=str(path), given=str(path))
        tree = tree_of(path)
        return cls.from_tree(anchor_paths(tree, path.parent), overrides, file=str(path))

    @classmethod
    def from_tree(cls, tree: dict[str, Any], overrides: Sequence[str] = (), *, file: str = "") -> Recipe:
        """Make a recipe of nested dicts; raises InvalidRecipeError with every complaint at once."""
        tree = anchor_paths(apply_overrides(tree, overrides), Path.cwd())
        try:
            recipe = cls.model_validate(tree)
        except ValidationError as error:
            raise InvalidRecipeError(complaints_of(error, cls), file) from error
        kinds = recipe.model.quantize, recipe.adapter
        complaints = broken_rules(tree, recipe.training, recipe.stages, recipe.data.split, *kinds, recipe.method)
        stages = recipe.stages or (StageSection(method=recipe.method),)
        asked = recipe.evaluation, recipe.gate, recipe.exports
        complaints += beyond_classes(stages, recipe.training, recipe.model, recipe.adapter, *asked)
        if complaints:
            raise InvalidRecipeError(complaints, file)
        return recipe

    def plan_stages(self) -> tuple[StageSection, ...]:
        """The stages as they run, each with its whole, filled `training` chapter."""
        stages = self.stages or (StageSection(method=self.method),)
        filled = []
        for stage in stages:
            merged = self.training.model_copy(update=stage.training.model_dump(exclude_unset=True))
            training = fill_training(merged, stage.method.kind, self.adapter.kind, self.model.init)
            filled.append(StageSection(method=stage.method, training=training))
        return tuple(filled)

    def resolved(self) -> dict[str, Any]:
        """Everything spelt out, as stored beside the run: no value is left to a later version's default."""
        tree = self.model_dump(mode="json")
        tree["stages"] = [stage.model_dump(mode="json") for stage in self.plan_stages()]
        del tree["method"]  # it has become the only stage
        if tree["adapter"]["kind"] == "lora" and tree["adapter"]["alpha"] is None:
            tree["adapter"]["alpha"] = 2.0 * tree["adapter"]["rank"]
        return tree

    @property
    def digest(self) -> str:
        """Of everything that decides what comes out; a knob that came later counts where it is not as it came."""
        return sha256_json(counted({key: value for key, value in self.resolved().items() if key not in OUTSIDE}))


def _whole_stage(stage: Any) -> Any:
    """`sft` or `{kind: dpo, beta: 0.2, training: {...}}` as `{method: ..., training: ...}`."""
    if isinstance(stage, str):
        return {"method": {"kind": stage}}
    if isinstance(stage, dict) and "kind" in stage:
        method = {key: value for key, value in stage.items() if key != "training"}
        return {"method": method, "training": stage.get("training", {})}
    return stage
