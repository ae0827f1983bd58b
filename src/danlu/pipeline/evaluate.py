"""evaluate: the same questions to base and tuned model, a report with error bars, as JSON and as one HTML page."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danlu.core.errors import EvaluationError, RunError
from danlu.core.files import sha256_file, sha256_json, write_text
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.finding import find_files
from danlu.engines.engine import Sampling
from danlu.evaluation.gate import Gate
from danlu.evaluation.items import load_questions
from danlu.evaluation.probes import PINNED
from danlu.evaluation.report import Context, Report, build_report
from danlu.evaluation.report_html import render_html
from danlu.evaluation.report_markdown import render_markdown
from danlu.evaluation.runner import Assignment, run_tasks
from danlu.evaluation.tasks.domain import Domain
from danlu.pipeline.assignments import Assignments, read_rows, worded
from danlu.pipeline.device import describe_hardware
from danlu.pipeline.open_engine import Engines, open_artifact, open_engines, trained_digest
from danlu.pipeline.outside import hear_others
from danlu.recipe.evaluation import EvaluationSection
from danlu.run.run import Run
from danlu.version import VERSION

MAX_CURVE_POINTS = 400
CURVE = "curve.json"
"""The learning curve beside the report, written by `pipeline/curve.py`."""


def evaluate(
    run: Run, *, questions: Path | None = None, device: str = "auto", progress: Progress | None = None
) -> Report:
    """Measure a trained run. With `questions` (a file of the user's own) only the domain task is run, and the run's own
    report stays as it is; without, the recipe's tasks are run and report.json and report.html are written."""
    progress = progress or Silent()
    with run.acting("evaluate"):
        inputs = _inputs_digest(run)
        known = _known_report(run, inputs) if questions is None else None
        report = known or _measured(run, questions, device, progress)
        if questions is None and known is None:
            save_report(run, report)
            run.finish("evaluate", inputs, {"report": "report.json"})
    return report if questions is not None else _with_others(run, report, device, progress)


def _measured(run: Run, questions: Path | None, device: str, progress: Progress) -> Report:
    """Both models asked, or what they have answered before taken up again."""
    began = time.perf_counter()
    engines = open_engines(run, device=device, progress=progress)
    desk = Assignments(run, engines.encoder, progress)
    assignments = desk.chosen() if questions is None else desk.asking(questions)
    sections = run_tasks(engines.base, engines.tuned, assignments, folder=run.path("answers"), progress=progress)
    context = _context(run, engines, desk.sifted, time.perf_counter() - began)
    gate = gate_of(run) if questions is None else None
    return build_report(run.recipe.name, sections, base=engines.base, tuned=engines.tuned, gate=gate, context=context)


def _with_others(run: Run, report: Report, device: str, progress: Progress) -> Report:
    """The judge and the benchmarks that the recipe names, once the run's own answers lie there."""
    heard = hear_others(run, report, gate_of(run), trained=trained_digest(run), device=device, progress=progress)
    if heard != report:
        with run.acting("evaluate"):
            save_report(run, heard)
    return heard


def gate_of(run: Run) -> Gate:
    """The recipe's gate."""
    section = run.recipe.gate
    return Gate(
        section.min_gain, section.max_forget, section.min_accuracy, section.min_consistency, section.max_loss,
        section.max_category_loss, section.prove_categories, section.max_probe_loss, section.min_win_rate,
        section.max_suite_loss,
    )  # fmt: skip


def current_report(run: Run) -> Report | None:
    """The run's report, if it speaks of the weights, questions and demands of now, and whom the recipe wants heard has
    been heard; None where it must be made."""
    known, section = _known_report(run, _inputs_digest(run)), run.recipe.evaluation
    if known is None or (section.judge and known.judged is None) or (section.suites and not known.suites):
        return None
    return known


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
    files = [section.questions, section.edge, section.preference, section.general, section.general_questions]
    asked = [[found.name, sha256_file(found.path)] for found in find_files([path for path in files if path])]
    own = section.model_dump(mode="json", exclude={"judge", "suites"})  # they are asked after our own questions
    chapters = [own, *(part.model_dump(mode="json") for part in (run.recipe.gate, run.recipe.model))]
    return sha256_json([VERSION, PINNED, trained_digest(run), chapters, asked, run.recipe.data.split.seed])


def save_report(run: Run, report: Report) -> None:
    """report.json for scripts, report.html for people, report.md for a merge request."""
    report.save(run.path("report.json"))
    write_text(run.path("report.html"), render_html(report))
    write_text(run.path("report.md"), render_markdown(report))


def evaluate_checkpoint(
    run: Run,
    checkpoint: Path,
    *,
    tasks: Sequence[str] = ("domain", "preference", "forgetting"),
    device: str = "auto",
    progress: Progress | None = None,
) -> Report:
    """Some of the recipe's tasks asked of one checkpoint; nothing is written but cached answers."""
    progress = progress or Silent()
    with run.acting("evaluate"):
        engines = open_engines(run, checkpoint=checkpoint, device=device, progress=progress)
        assignments = [a for a in Assignments(run, engines.encoder, progress).chosen(tasks) if a.task.name != "general"]
        sections = run_tasks(engines.base, engines.tuned, assignments, folder=run.path("answers"), progress=progress)
        return build_report(run.recipe.name, sections, base=engines.base, tuned=engines.tuned)


def evaluate_validation(
    run: Run, checkpoint: Path, *, device: str = "auto", progress: Progress | None = None
) -> Report:
    """Domain questions of the validation part alone, for choosing among trainings; the test part is not opened."""
    progress = progress or Silent()
    with run.acting("evaluate"):
        engines = open_engines(run, checkpoint=checkpoint, device=device, progress=progress)
        asked = Assignments(run, engines.encoder, progress).validating()
        sections = run_tasks(engines.base, engines.tuned, asked, folder=run.path("answers"), progress=progress)
        return build_report(run.recipe.name, sections, base=engines.base, tuned=engines.tuned)


def evaluate_artifact(
    folder: Path, questions: Path, *, device: str = "auto", progress: Progress | None = None
) -> Report:
    """A user's own questions asked of an artefact, and of the base where the artefact is an adapter beside it. Nothing
    is written, and what it was trained on is not known here: no question is left out as seen."""
    progress = progress or Silent()
    tuned = open_artifact(folder, device=device, progress=progress)
    samples = [worded(sample, tuned.encoder) for sample in read_rows(str(questions), progress)]
    items = load_questions(samples).items
    if not items:
        raise EvaluationError("pipeline.no_questions", where=str(questions))
    if tuned.adapter is None:
        progress.note(say("pipeline.no_base_beside"))
    base = tuned.base() if tuned.adapter is not None else tuned
    greedy = Sampling(max_new_tokens=EvaluationSection().max_new_tokens)
    sections = run_tasks(base, tuned, [Assignment(Domain(greedy), items)], progress=progress)
    return build_report(tuned.name, sections, base=base, tuned=tuned)


def known_curve(run: Run) -> dict[str, Any] | None:
    """The learning curve of the weights as they are now; None where none was measured."""
    if not run.path(CURVE).is_file():
        return None
    curve: dict[str, Any] = run.read(CURVE)
    return curve if curve.get("trained") == trained_digest(run) else None


def _context(run: Run, engines: Engines, sifted: dict[str, Any], seconds: float) -> Context:
    steps = list(run.events.read("step"))
    stage = steps[-1]["stage"] if steps else ""
    latest: dict[int, dict[str, Any]] = {step["number"]: step for step in steps if step["stage"] == stage}
    every = max(1, len(latest) // MAX_CURVE_POINTS)
    ordered = [latest[number] for number in sorted(latest)]
    ledger = run.read("ledger.json")
    prepared = run.outcome("prepare") or {}
    return Context(
        training={"stage": stage, **_curves(ordered, every)},
        data={"ledger": ledger | {"rejects": ledger["rejects"][:100], "changes": ledger["changes"][:100]},
              "split": prepared["certificate"], "questions": sifted},
        curve=known_curve(run),
        footer={
            "recipe": run.recipe.digest,
            "dataset": run.read("dataset", prepared["stages"][-1], "format.json")["digest"],
            "code": f"danlu {VERSION}",
            "hardware": f"{describe_hardware(engines.tuned.model.device.type)} · {platform.machine()}",
            "command": f"danlu evaluate {run.name}",
            "seconds": round(seconds, 1),
        },
    )  # fmt: skip


def _curves(steps: Sequence[Mapping[str, Any]], every: int) -> dict[str, Any]:
    """How training went: losses, or where answers were rewarded what they earned, which is no loss."""
    checks = [step for step in steps if step.get("validation")]
    if not any("reward" in step.get("metrics", {}) for step in steps):
        return {
            "curve": [{"step": step["number"], "loss": step["loss"]} for step in steps[::every]],
            "validation": [{"step": step["number"], "loss": step["validation"]["loss"]} for step in checks],
        }
    return {
        "rewards": {
            "training": [{"step": step["number"], "reward": step["metrics"]["reward"]} for step in steps[::every]],
            "validation": [{"step": step["number"], "reward": step["validation"]["reward"]} for step in checks],
        }
    }
