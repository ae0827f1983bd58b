"""Recipes whose method is classify: what they leave unsaid means, and what an encoder cannot do, in words.

Whether the base is an encoder is looked at where it lies (`pipeline/encoders.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from danlu.core.messages import say
from danlu.recipe.adapter import AdapterSection
from danlu.recipe.complaints import Complaint
from danlu.recipe.evaluation import EvaluationSection, GateSection
from danlu.recipe.exports import ExportSection
from danlu.recipe.method import StageSection
from danlu.recipe.model import ModelSection
from danlu.recipe.training import TrainingSection

TASKS = ("domain", "edge")
"""What can be asked of who only names classes."""
_UNSAID: dict[str, dict[str, Any]] = {
    # an encoder's reach is short: refused, long texts would be neither learnt nor answered
    "data": {"over_length": "truncate-prompt"},
    # 512 tokens is what most encoders read at once; some forty reviews make a step, about what BERT was tuned with
    "training": {"context": 512, "batch_tokens": 4096},
    "evaluation": {"tasks": ["domain"]},
    # what was forgotten, and how probes fare, is asked in words
    "gate": {"max_forget": None, "max_loss": None, "max_category_loss": None, "max_probe_loss": None},
}


def classifies(tree: dict[str, Any]) -> bool:
    """Whether a recipe as written does; its stages are spelt out, and may be anything that a person wrote."""
    stages = tree.get("stages") or [{"method": tree.get("method")}]
    written = [stage for stage in stages if isinstance(stage, dict)] if isinstance(stages, list | tuple) else []
    return "classify" in [_kind(stage.get("method")) for stage in written]


def fill_classify(tree: dict[str, Any]) -> dict[str, Any]:
    """A recipe as written, with what it leaves unsaid if it classifies; any other as it is."""
    if not classifies(tree):
        return tree
    chapters = {name: {**said, **(tree.get(name) or {})} for name, said in _UNSAID.items() if _is_open(tree, name)}
    return {"adapter": {"kind": "full"}, "exports": [{"kind": "merged"}], **tree, **chapters}


def _is_open(tree: dict[str, Any], name: str) -> bool:
    """Nothing is said, or some of it; what is no chapter at all is complained of elsewhere."""
    return isinstance(tree.get(name) or {}, dict)


def _kind(method: Any) -> Any:
    return method.get("kind") if isinstance(method, dict) else method


def beyond_classes(
    stages: Sequence[StageSection], training: TrainingSection, model: ModelSection, adapter: AdapterSection,
    evaluation: EvaluationSection, gate: GateSection, exports: Sequence[ExportSection],
) -> Iterator[Complaint]:  # fmt: skip
    """All that a recipe which classifies asks of an encoder and that none can give."""
    if not any(stage.method.kind == "classify" for stage in stages):
        return
    if len(stages) > 1:
        yield Complaint("stages", [stage.method.kind for stage in stages], say("recipe.classify_alone"))
    if adapter.kind != "full":
        yield Complaint("adapter.kind", adapter.kind, say("recipe.classify_full"))
    elif adapter.layers is not None:
        yield Complaint("adapter.layers", adapter.layers, say("recipe.classify_layers"))
    if model.quantize != "none":
        yield Complaint("model.quantize", model.quantize, say("recipe.classify_quantize"))
    for key, given in (("system", model.system), ("template", None if model.template == "auto" else model.template)):
        if given is not None:
            yield Complaint(f"model.{key}", given, say("recipe.classify_no_chat"))
    if any(part.compile for part in (training, *(stage.training for stage in stages))):
        yield Complaint("training.compile", True, say("recipe.classify_compile"))
    for number, task in enumerate(evaluation.tasks):
        if task not in TASKS:
            yield Complaint(f"evaluation.tasks.{number}", task, say("recipe.name_of", known=", ".join(TASKS)))
    if evaluation.judge is not None or evaluation.suites:
        key = "judge" if evaluation.judge is not None else "suites"
        yield Complaint(f"evaluation.{key}", "…", say("recipe.classify_no_words"))
    for key in _UNSAID["gate"]:
        if (given := getattr(gate, key)) is not None:
            yield Complaint(f"gate.{key}", given, say("recipe.classify_no_words"))
    for number, export in enumerate(exports):
        if export.kind != "merged":
            yield Complaint(f"exports.{number}.kind", export.kind, say("recipe.classify_merged"))
