"""evaluate: the same questions to base and tuned model, a report with error bars, as JSON and as one HTML page."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from danlu.core.errors import EvaluationError, RunError
from danlu.core.files import sha256_file, sha256_json, write_text
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.encode import Encoder
from danlu.data.finding import SourceSpec, find_files
from danlu.data.ledger import Ledger
from danlu.data.sample import Document, Label, Preference, Sample, replace
from danlu.data.samples_file import read_samples
from danlu.data.sources import read
from danlu.data.tokens import Tokens
from danlu.engines.engine import Sampling
from danlu.evaluation.gate import Gate
from danlu.evaluation.items import Item, choose_items, load_questions
from danlu.evaluation.report import Context, Report, build_report
from danlu.evaluation.report_html import render_html
from danlu.evaluation.report_markdown import render_markdown
from danlu.evaluation.runner import Assignment, run_tasks
from danlu.evaluation.tasks.consistency import Consistency
from danlu.evaluation.tasks.domain import Domain
from danlu.evaluation.tasks.edge import Edge
from danlu.evaluation.tasks.forgetting import Forgetting, Passage, passages_from
from danlu.evaluation.tasks.preference import Pair, pairs_from
from danlu.evaluation.tasks.preference import Preference as PreferenceTask
from danlu.pipeline.device import describe_hardware
from danlu.pipeline.leaks import without_leaks
from danlu.pipeline.open_engine import Engines, open_artifact, open_engines, trained_digest
from danlu.recipe.evaluation import EvaluationSection
from danlu.run.run import Run
from danlu.version import VERSION

MAX_CURVE_POINTS = 400
_WANTS = {
    "domain": "evaluation.questions", "consistency": "evaluation.questions", "edge": "evaluation.edge",
    "preference": "evaluation.preference", "forgetting": "evaluation.general",
}  # fmt: skip
"""Where a task's material is named, for saying why it is not run."""


def evaluate(
    run: Run, *, questions: Path | None = None, device: str = "auto", progress: Progress | None = None
) -> Report:
    """Measure a trained run. With `questions` (a file of the user's own) only the domain task is run, and the run's own
    report stays as it is; without, the recipe's tasks are run and report.json and report.html are written."""
    told = progress or Silent()
    began = time.perf_counter()
    with run.acting("evaluate"):
        inputs = _inputs_digest(run)
        if questions is None and (known := _known_report(run, inputs)) is not None:
            return known
        engines = open_engines(run, device=device, progress=told)
        desk = _Assignments(run, engines, told)
        assignments = desk.chosen(questions)
        sections = run_tasks(engines.base, engines.tuned, assignments, folder=run.path("answers"), progress=told)
        context = _context(run, engines, desk.sifted, time.perf_counter() - began)
        report = build_report(
            run.recipe.name, sections, base=engines.base, tuned=engines.tuned,
            gate=gate_of(run) if questions is None else None, context=context,
        )  # fmt: skip
        if questions is None:
            save_report(run, report)
            run.finish("evaluate", inputs, {"report": "report.json"})
    return report


def gate_of(run: Run) -> Gate:
    """The recipe's gate."""
    section = run.recipe.gate
    return Gate(section.min_gain, section.max_forget, section.min_accuracy, section.min_consistency)


def _known_report(run: Run, inputs: str) -> Report | None:
    """The report of an evaluation on these very inputs, if it is there and whole."""
    if run.finished("evaluate", inputs) is None or not run.path("report.html").is_file():
        return None
    try:
        return Report.from_json(run.read("report.json"))
    except (RunError, EvaluationError, TypeError):  # damaged, or another version's: asked again, answers are kept
        return None


def _inputs_digest(run: Run) -> str:
    """What an evaluation depends on: the trained weights, the questions, how they are asked and what is demanded."""
    section = run.recipe.evaluation
    files = [section.questions, section.edge, section.preference, section.general]
    asked = [[found.name, sha256_file(found.path)] for found in find_files([path for path in files if path])]
    chapters = [part.model_dump(mode="json") for part in (section, run.recipe.gate, run.recipe.model)]
    return sha256_json([VERSION, trained_digest(run), chapters, asked, run.recipe.data.split.seed])


def save_report(run: Run, report: Report) -> None:
    """report.json for scripts, report.html for people, report.md for a merge request."""
    report.save(run.path("report.json"))
    write_text(run.path("report.html"), render_html(report))
    write_text(run.path("report.md"), render_markdown(report))


def evaluate_checkpoint(
    run: Run, checkpoint: Path, *, device: str = "auto", progress: Progress | None = None
) -> Report:
    """The recipe's tasks asked of one stage's checkpoint; nothing is written but cached answers."""
    told = progress or Silent()
    with run.acting("evaluate"):
        engines = open_engines(run, checkpoint=checkpoint, device=device, progress=told)
        assignments = [
            a for a in _Assignments(run, engines, told).chosen(None) if a.task.name not in ("consistency", "edge")
        ]
        sections = run_tasks(engines.base, engines.tuned, assignments, folder=run.path("answers"), progress=told)
        return build_report(run.recipe.name, sections, base=engines.base, tuned=engines.tuned)


def evaluate_artifact(
    folder: Path, questions: Path, *, device: str = "auto", progress: Progress | None = None
) -> Report:
    """A user's own questions asked of an artefact, and of the base where the artefact is an adapter beside it. Nothing
    is written, and what it was trained on is not known here: no question is left out as seen."""
    told = progress or Silent()
    tuned = open_artifact(folder, device=device, progress=told)
    samples = [_worded(sample, tuned.encoder) for sample in _read(str(questions), told)]
    items = load_questions(samples).items
    if not items:
        raise EvaluationError("pipeline.no_questions", where=str(questions))
    if tuned.adapter is None:
        told.note(say("pipeline.no_base_beside"))
    base = tuned.base() if tuned.adapter is not None else tuned
    greedy = Sampling(max_new_tokens=EvaluationSection().max_new_tokens)
    sections = run_tasks(base, tuned, [Assignment(Domain(greedy), items)], progress=told)
    return build_report(tuned.name, sections, base=base, tuned=tuned)


def _read(path: str, told: Progress) -> list[Sample]:
    """Rows of a file of questions; the first that cannot be asked are named."""
    ledger = Ledger()
    samples = list(read([SourceSpec(path)], ledger))
    for entry in ledger.rejects[:5]:
        told.note(str(entry))
    return samples


def _worded(sample: Sample, encoder: Encoder) -> Sample:
    """A label is asked for in the very words it was trained with."""
    if not isinstance(sample, Label):
        return sample
    return encoder.conversation(replace(sample, tags=sample.tags | {"metric": "label"}))


class _Assignments:
    """The recipe's tasks with their items."""

    def __init__(self, run: Run, engines: Engines, told: Progress) -> None:
        self.run, self.told = run, told
        self.section: EvaluationSection = run.recipe.evaluation
        self.encoder = engines.encoder
        self.sifted: dict[str, dict[str, float]] = {}
        """Per file of questions: how many are asked, how many were left out, and the nearest one to training."""

    def chosen(self, questions: Path | None) -> list[Assignment]:
        greedy = Sampling(max_new_tokens=self.section.max_new_tokens)
        if questions is not None:
            return [Assignment(Domain(greedy), self._asked(str(questions)))]
        found: list[Assignment] = []
        wanted = set(self.section.tasks)
        has_questions = bool(self.section.questions) or bool(self._held_out())
        if wanted & {"domain", "consistency"} and has_questions:
            asked = self._asked(self.section.questions)
            if "domain" in wanted:
                found.append(Assignment(Domain(greedy), asked))
            if "consistency" in wanted:
                drawn = Sampling(self.section.max_new_tokens, temperature=self.section.temperature)
                found.append(Assignment(Consistency(drawn, repeats=self.section.repeats), asked))
        if "edge" in wanted and self.section.edge:
            found.append(Assignment(Edge(greedy), self._asked(self.section.edge)))
        if "preference" in wanted and (pairs := self._pairs()):
            found.append(Assignment(PreferenceTask(), pairs))
        if "forgetting" in wanted:
            found.append(Assignment(Forgetting(), self._passages()))
        if not found:
            raise EvaluationError("pipeline.no_questions", where="evaluation.questions")
        for task in self.section.tasks:
            if task not in {assignment.task.name for assignment in found}:
                self.told.note(say("pipeline.task_skipped", task=task, key=_WANTS[task]))
        return found

    def _asked(self, path: str | None) -> Sequence[Item]:
        """Questions of a file, or of the held-out part, without those that have a twin in training."""
        samples = _read(path, self.told) if path else self._held_out()
        where = path or "data.split.test"
        sifted = without_leaks(samples, self.run)
        num_leaks = sifted.num_leaks
        if num_leaks:
            self.told.note(say("pipeline.leak", count=num_leaks, total=len(samples)))
        items = load_questions([_worded(sample, self.encoder) for sample in sifted.kept]).items
        self.sifted[where] = {"asked": len(items), "left_out": num_leaks, "nearest": round(sifted.nearest, 4)}
        if not items:
            key = "pipeline.all_leak" if num_leaks else "pipeline.no_questions"
            raise EvaluationError(key, where=where, total=num_leaks)
        return choose_items(items, self.section.max_items, seed=self.run.recipe.data.split.seed)

    def _held_out(self) -> list[Sample]:
        path = self.run.path("dataset", "test.jsonl")
        return [s for s in read_samples(path) if not isinstance(s, Document | Preference)] if path.is_file() else []

    def _pairs(self) -> tuple[Pair, ...]:
        """Held-out preference pairs: the recipe's file, or those of the held-out part."""
        path = self.run.path("dataset", "test.jsonl")
        source = _read(self.section.preference, self.told) if self.section.preference else read_samples(path)
        return pairs_from(source, self._encode)

    def _passages(self) -> tuple[Passage, ...]:
        """General text: the recipe's file, or the small set that comes with danlu; which one is said."""
        own = str(resources.files("danlu.assets") / "company" / "general.jsonl")
        path = self.section.general or own
        self.told.note(say("pipeline.general_text", path=path))
        return passages_from([s for s in _read(path, self.told) if isinstance(s, Document)], self._encode)

    def _encode(self, sample: Sample) -> list[Tokens]:
        return self.encoder.encode(sample, Ledger())


def _context(run: Run, engines: Engines, sifted: dict[str, Any], seconds: float) -> Context:
    steps = list(run.events.read("step"))
    stage = steps[-1]["stage"] if steps else ""
    latest: dict[int, dict[str, Any]] = {step["number"]: step for step in steps if step["stage"] == stage}
    every = max(1, len(latest) // MAX_CURVE_POINTS)
    ordered = [latest[number] for number in sorted(latest)]
    ledger = run.read("ledger.json")
    prepared = run.outcome("prepare") or {}
    return Context(
        training={
            "stage": stage,
            "curve": [{"step": s["number"], "loss": s["loss"]} for s in ordered[::every]],
            "validation": [
                {"step": s["number"], "loss": s["validation"]["loss"]} for s in ordered if s.get("validation")
            ],
        },
        data={"ledger": ledger | {"rejects": ledger["rejects"][:100], "changes": ledger["changes"][:100]},
              "split": prepared["certificate"], "questions": sifted},
        footer={
            "recipe": run.recipe.digest,
            "dataset": run.read("dataset", prepared["stages"][-1], "format.json")["digest"],
            "code": f"danlu {VERSION}",
            "hardware": f"{describe_hardware(engines.tuned.model.device.type)} · {platform.machine()}",
            "command": f"danlu evaluate {run.name}",
            "seconds": round(seconds, 1),
        },
    )  # fmt: skip
