"""Runs tasks on two engines, the untouched base and the tuned model, with the same items and the same sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.errors import EvaluationError
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.engines.engine import Engine
from danlu.evaluation.cache import CachedEngine
from danlu.evaluation.tasks import Result, Task
from danlu.evaluation.usage import Usage


@dataclass(frozen=True, slots=True)
class Assignment:
    """A task and what it is run on."""

    task: Task[Any]
    items: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Section:
    """One task's results on both engines; `summary` is its section of the report, with what asking it took."""

    name: str
    items: Sequence[Any]
    base: Sequence[Result]
    tuned: Sequence[Result]
    summary: dict[str, Any]


def run_tasks(
    base: Engine,
    tuned: Engine,
    assignments: Sequence[Assignment],
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Section]:
    """All tasks on both engines. `folder` keeps answers, so that a stopped evaluation goes on where it stood.

    One engine is asked everything before the other is asked anything: two large models need not fit side by side
    when the engines load lazily. Raises EvaluationError for a task without items.
    """
    progress = progress or Silent()
    for assignment in assignments:
        if not assignment.items:
            raise EvaluationError("evaluation.no_items", where=f"evaluation.{assignment.task.name}")
    results: dict[str, dict[str, list[Result]]] = {}
    usage: dict[str, dict[str, Any]] = {assignment.task.name: {} for assignment in assignments}
    for side, engine in (("base", base), ("tuned", tuned)):
        cached = CachedEngine(engine, folder)
        results[side] = {}
        for assignment in assignments:
            cached.usage = Usage()
            progress.start(
                say("evaluation.asking", task=assignment.task.name, model=engine.name),
                len(assignment.items) * assignment.task.steps_per_item,
            )
            results[side][assignment.task.name] = assignment.task.run(cached, assignment.items, watch=progress.advance)
            progress.finish()
            usage[assignment.task.name][side] = cached.usage.to_json()
    found = {}
    for assignment in assignments:
        name = assignment.task.name
        base_results, tuned_results = results["base"][name], results["tuned"][name]
        summary = assignment.task.compare(assignment.items, base_results, tuned_results)
        if any(side["answers"] for side in usage[name].values()):
            summary = summary | {"usage": usage[name]}
        found[name] = Section(name, assignment.items, base_results, tuned_results, summary)
    return found
