"""round: train on the data of now, compare with what is in use, promote or hold. Every part resumes by itself.

Two doors: the run's own gate (against the base), and the regression gate (against the version that the alias points at,
on the same questions). The first round has no second door. A held round leaves its run, its report and its reasons.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.errors import EvaluationError, RecipeError, RunError
from danlu.core.files import sha256_file, write_json
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.finding import mark_of
from danlu.evaluation.compare import ReportComparison, compare_reports
from danlu.evaluation.report import Report
from danlu.pipeline.evaluate import evaluate_artifact
from danlu.pipeline.open_engine import checkpoint_digest
from danlu.pipeline.register import register, why_not
from danlu.pipeline.run_all import run_all
from danlu.recipe import Recipe
from danlu.recipe.adapter import LoRASection
from danlu.run.artifact import NAME as ARTIFACT_FILE
from danlu.run.artifact import Manifest
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
    progress = progress or Silent()
    section, registry = recipe.round, Registry(runs)
    before = _in_use(registry, recipe.name, section.alias)
    wanted = _marked(recipe)
    if section.start == "adapter" and before is not None:
        wanted = _going_on(wanted, registry, before)
        progress.note(say("round.goes_on", version=before.label))
    run = Run.create(wanted, runs)
    run_all(run, device=device, progress=progress)
    before = _in_use(registry, recipe.name, section.alias)  # training is long: somebody may have moved it
    is_known = before is not None and before.run == run.name and run.path(NAME).is_file()
    found = _judge(run, registry, before, device, progress)
    if not is_known:
        write_json(run.path(NAME), found.to_json())
        run.events.append("round", decision="promote" if found.promoted else "hold", reason=found.reason)
    return found


def _marked(recipe: Recipe) -> Recipe:
    """The recipe of this round: other data, or other questions, make another run."""
    chosen = [*(source.path for source in recipe.data.sources), recipe.evaluation.questions]
    mark = mark_of([path for path in chosen if path])
    return recipe.model_copy(update={"round": recipe.round.model_copy(update={"mark": mark})})


def _judge(run: Run, registry: Registry, before: Version | None, device: str, progress: Progress) -> Round:
    if before is not None and before.run == run.name:
        return Round(run, before, None, before, say("round.same", version=before.label))
    if (left := _left(run, registry)) is not None:
        return Round(run, before, None, None, left)
    if refusal := why_not(run):
        return Round(run, before, None, None, refusal)
    comparison = None if before is None else _against(run, registry, before, device, progress)
    if comparison is not None and not comparison.comparison.not_inferior:
        assert before is not None, "compared with it"
        return Round(run, before, comparison, None, _lost(comparison, before, run.recipe.round.max_loss))
    alias = run.recipe.round.alias
    if (now := _in_use(registry, run.recipe.name, alias)) != before:
        labels = [version.label if version else "-" for version in (before, now)]
        return Round(run, now, comparison, None, say("round.moved", alias=alias, before=labels[0], now=labels[1]))
    version = register(run, reason="round")
    registry.point(version.name, alias, version.number, reason="round")
    key = "round.first" if comparison is None else "round.promoted"
    return Round(run, before, comparison, version, say(key, version=version.label, alias=alias))


def _left(run: Run, registry: Registry) -> str | None:
    """Why a run that somebody took out of use stays out: a round never undoes a rollback or a withdrawal."""
    state, alias = registry.read(), run.recipe.round.alias
    own = [version for version in state.versions.get(run.recipe.name, []) if version.run == run.name]
    for version in reversed(own):
        if version.is_withdrawn:
            return say("round.withdrawn", version=version.label)
        if state.has_pointed(version, alias):
            return say("round.taken_back", version=version.label, alias=alias)
    return None


def _against(run: Run, registry: Registry, before: Version, device: str, progress: Progress) -> ReportComparison:
    """The new model beside the one in use, on the new report's questions."""
    margin = run.recipe.round.max_loss
    new = Report.from_json(read_kept(run.path("report.json")))
    if (known := _report_of(registry, before)) is not None:
        with contextlib.suppress(EvaluationError):  # no question in common
            found = compare_reports(known, new, margin=margin)
            if found.num_shared >= ENOUGH_SHARED * (found.num_shared + found.num_only_second):
                return found
    questions = run.recipe.evaluation.questions
    if questions is None:
        raise RunError("round.other_questions", where="evaluation.questions", version=before.label)
    progress.note(say("round.asks_again", version=before.label))
    old = evaluate_artifact(registry.open(before), Path(questions), device=device, progress=progress)
    return compare_reports(old, new, margin=margin)


def _report_of(registry: Registry, before: Version) -> Report | None:
    """The report of the version's own weights; None where its run is gone or has gone on to others."""
    folder = registry.folder / before.run
    path = folder / "report.json"
    try:
        is_own = sha256_file(path) == before.parents.get("report")
        if not is_own and checkpoint_digest(Run.open(folder)) != before.parents.get("checkpoint"):
            return None
        return Report.from_json(read_kept(path))
    except (OSError, RunError, EvaluationError):  # gone, damaged, or another version's: it is asked again
        return None


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
    """The recipe, its adapter starting where the version in use ended; that version's own where it is of this data."""
    if not isinstance(recipe.adapter, LoRASection):
        raise RecipeError("round.no_adapter", where="round.start", given=recipe.adapter.kind)
    known = registry.folder / before.run
    if (known / "run.json").is_file():
        played = Run.open(known).recipe
        if _started(played, recipe.adapter.start).digest == recipe.digest:
            return played.model_copy(update={"tracking": recipe.tracking})
    if before.kind == "adapter":
        folder = registry.open(before)
    else:
        folder = known / "artifacts" / "adapter"
        if not (folder / ARTIFACT_FILE).is_file():
            raise RecipeError("round.no_adapter_there", where="round.start", given=before.label, folder=str(folder))
        manifest = Manifest.read(folder)
        if manifest.parents.get("checkpoint") != before.parents.get("checkpoint"):
            raise RecipeError("round.other_adapter", where="round.start", given=before.label, folder=str(folder))
        manifest.check_files(folder)
    return _started(recipe, str(folder.resolve()))


def _started(recipe: Recipe, start: str | None) -> Recipe:
    """The recipe with its adapter beginning at `start`."""
    return recipe.model_copy(update={"adapter": recipe.adapter.model_copy(update={"start": start})})
