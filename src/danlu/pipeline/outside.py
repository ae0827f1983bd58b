"""outside: what the recipe wants others to say of a run's answers: a judge, and other people's benchmarks.

`danlu judge` and `danlu examine` do the asking; here the recipe names them, what is known already is not asked again,
and both enter the report, where the gate can hold them against the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.core.files import sha256_json
from danlu.core.messages import say
from danlu.core.progress import Progress
from danlu.evaluation.gate import Gate
from danlu.evaluation.report import Report, with_outside
from danlu.evaluation.stats import holm
from danlu.pipeline.examine import Hall, examine
from danlu.pipeline.judge import JUDGED, Seat, judge
from danlu.recipe.evaluation import JudgeSection, SuiteSection
from danlu.run.run import Run
from danlu.version import VERSION

KEPT = ("judge", "warnings", "pairs", "scores", "reading", "cost", "withheld", "people")
"""Of judge.json, what the report repeats."""
MAX_RUBRIC_CHARS = 100_000


def hear_others(run: Run, report: Report, gate: Gate, *, trained: str, device: str, progress: Progress) -> Report:
    """The report with what the judge and the suites of the recipe say; as it is where the recipe names none."""
    section = run.recipe.evaluation
    if section.judge is None and not section.suites:
        return report
    judged = ask_judge(run, section.judge, progress) if section.judge is not None else None
    suites = ask_suites(run, section.suites, trained=trained, device=device, progress=progress)
    return with_outside(report, judged, suites, gate)


def ask_judge(run: Run, section: JudgeSection, progress: Progress) -> dict[str, Any]:
    """judge.json's summary; asked only when answers, judge or rubric have changed."""
    rubric = Path(section.rubric).read_text(encoding="utf-8-sig")[:MAX_RUBRIC_CHARS] if section.rubric else ""
    answered = [
        [row["question"], row["reference"], row["base"]["answers"], row["tuned"]["answers"]]
        for row in run.read("report.json")["items"]
        if row["task"] == "domain"
    ]
    inputs = sha256_json([VERSION, answered, section.model_dump(mode="json"), rubric])
    if run.finished("judge", inputs) is None or not run.path(JUDGED).is_file():
        seat = Seat(section.model, section.url, Path(section.key_file) if section.key_file else None)
        reading = judge(run, seat, rubric=rubric.strip(), progress=progress)["reading"]
        if reading["unread"]:
            progress.note(say("judge.unread", unread=reading["unread"], asked=reading["asked"]))
        if not reading["failed"]:  # else the next evaluation asks for what is missing
            run.finish("judge", inputs, {"judged": JUDGED})
    found = run.read(JUDGED)
    return {key: found[key] for key in KEPT if key in found}


def ask_suites(
    run: Run, suites: Sequence[SuiteSection], *, trained: str, device: str, progress: Progress
) -> dict[str, Any]:
    """Each task's paired section by `<harness>: <task>`, tests of all corrected together."""
    sections: dict[str, Any] = {}
    for suite in suites:
        inputs = sha256_json([VERSION, trained, suite.model_dump(mode="json")])
        act = f"examine-{sha256_json(suite.model_dump(mode='json'))[:8]}"
        done = run.finished(act, inputs)
        if done is None:
            done = run.finish(act, inputs, {"tasks": _examined(run, suite, device, progress)})
        sections |= {f"{suite.harness}: {task}": section for task, section in done["tasks"].items()}
    adjusted = holm({name: section["difference"]["p"] for name, section in sections.items()})
    return {name: section | {"p_adjusted": adjusted[name]} for name, section in sections.items()}


def _examined(run: Run, suite: SuiteSection, device: str, progress: Progress) -> dict[str, Any]:
    hall = Hall(suite.harness, Path(suite.python).expanduser(), suite.tasks, suite.limit)
    tasks: dict[str, Any] = examine(run, hall, device=device, progress=progress)["tasks"]
    return tasks
