"""round: train on the data of now, compare with what is in use, promote or hold. Every part resumes by itself.

Two doors: the run's own gate (against the base), and the regression gate (against the version that the alias points at,
on the same questions). The first round has no second door. A held round leaves its run, its report and its reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.errors import EvaluationError, RecipeError, RunError
from danlu.core.files import sha256_file, sha256_json, write_json
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.finding import find_files
from danlu.evaluation.compare import ReportComparison, compare_reports
from danlu.evaluation.report import Report
from danlu.pipeline.evaluate import evaluate_artifact
from danlu.pipeline.register import register, why_not
from danlu.pipeline.run_all import run_all
from danlu.recipe import Recipe
from danlu.recipe.adapter import LoRASection
from danlu.run.artifact import NAME as ARTIFACT_FILE
from danlu.run.kept import read_kept
from danlu.run.registry import Registry, Version
from danlu.run.run import Run

NAME = "round.json"
ENOUGH_SHARED = 0.8
"""Of the new report's questions; with fewer, the version in use is asked them all."""


@dataclass(frozen=True, slots=True)
class Round:
    """`promoted` is the new version; None where the round is held, and `reason` says why."""

    run: Run
    before: Version | None
    comparison: ReportComparison | None
    promoted: Version | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run.name,
            "before": self.before.to_json() if self.before else None,
            "comparison": self.comparison.to_json() if self.comparison else None,
            "decision": "promote" if self.promoted else "hold",
            "promoted": self.promoted.to_json() if self.promoted else None,
            "reason": self.reason,
        }


def play_round(
    recipe: Recipe, runs: Path = Path("runs"), *, device: str = "auto", progress: Progress | None = None
) -> Round:
    """One round of this recipe; the same recipe and data again change nothing."""
    told = progress or Silent()
    section, registry = recipe.round, Registry(runs)
    before = _in_use(registry, recipe.name, section.alias)
    if section.start == "adapter" and before is not None:
        recipe = _going_on(recipe, registry, before)
        told.note(say("round.goes_on", version=before.label))
    run = Run.create(_marked(recipe), runs)
    run_all(run, device=device, progress=told)
    found = _judge(run, registry, before, device, told)
    write_json(run.path(NAME), found.to_json())
    run.events.append("round", decision="promote" if found.promoted else "hold", reason=found.reason)
    return found


def _marked(recipe: Recipe) -> Recipe:
    """The recipe of this round: other data, or other questions, make another run."""
    chosen = [*(source.path for source in recipe.data.sources), recipe.evaluation.questions]
    found = [[file.name, sha256_file(file.path)] for file in find_files([path for path in chosen if path])]
    return recipe.model_copy(update={"round": recipe.round.model_copy(update={"mark": sha256_json(found)[:12]})})


def _judge(run: Run, registry: Registry, before: Version | None, device: str, told: Progress) -> Round:
    if before is not None and before.run == run.name:
        return Round(run, before, None, before, say("round.same", version=before.label))
    if refusal := why_not(run):
        return Round(run, before, None, None, refusal)
    comparison = None if before is None else _against(run, registry, before, device, told)
    if comparison is not None and not comparison.comparison.not_inferior:
        assert before is not None, "compared with it"
        return Round(run, before, comparison, None, _lost(comparison, before, run.recipe.round.max_loss))
    version = register(run, reason="round")
    registry.point(version.name, run.recipe.round.alias, version.number, reason="round")
    key = "round.first" if comparison is None else "round.promoted"
    return Round(run, before, comparison, version, say(key, version=version.label, alias=run.recipe.round.alias))


def _against(run: Run, registry: Registry, before: Version, device: str, told: Progress) -> ReportComparison:
    """The new model beside the one in use, on the new report's questions."""
    margin = run.recipe.round.max_loss
    new = Report.from_json(read_kept(run.path("report.json")))
    report = registry.folder / before.run / "report.json"
    if report.is_file():
        try:
            found = compare_reports(Report.from_json(read_kept(report)), new, margin=margin)
            if found.num_shared >= ENOUGH_SHARED * (found.num_shared + found.num_only_second):
                return found
        except EvaluationError:  # no question in common
            pass
    questions = run.recipe.evaluation.questions
    if questions is None:
        raise RunError("round.other_questions", where="evaluation.questions", version=before.label)
    told.note(say("round.asks_again", version=before.label))
    old = evaluate_artifact(registry.open(before), Path(questions), device=device, progress=told)
    return compare_reports(old, new, margin=margin)


def _lost(found: ReportComparison, before: Version, margin: float) -> str:
    told = found.comparison
    return say(
        "round.regression", version=before.label, value=f"{100 * told.value:+.1f}", low=f"{100 * told.low:+.1f}",
        high=f"{100 * told.high:+.1f}", margin=f"{100 * margin:.1f}", lost=len(found.lost), items=found.num_shared,
    )  # fmt: skip


def _in_use(registry: Registry, name: str, alias: str) -> Version | None:
    number = registry.read().aliases.get((name, alias))
    return None if number is None else registry.resolve(f"{name}:{number}")


def _going_on(recipe: Recipe, registry: Registry, before: Version) -> Recipe:
    """The recipe, its adapter starting where the version in use ended."""
    if not isinstance(recipe.adapter, LoRASection):
        raise RecipeError("round.no_adapter", where="round.start", given=recipe.adapter.kind)
    folder = registry.folder / (before.artifact if before.kind == "adapter" else f"{before.run}/artifacts/adapter")
    if not (folder / ARTIFACT_FILE).is_file():
        raise RecipeError("round.no_adapter_there", where="round.start", given=before.label, folder=str(folder))
    return recipe.model_copy(update={"adapter": recipe.adapter.model_copy(update={"start": str(folder.resolve())})})
