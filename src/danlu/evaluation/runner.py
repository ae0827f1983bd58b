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


@dataclass(frozen=True, slots=True)
class Assignment:
    """A task and what it is run on."""

    task: Task[Any]
    items: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Section:
    """One task's results on both engines; `summary` is its section of the report."""

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
    told = progress or Silent()
    for assignment in assignments:
        if not assignment.items:
            raise EvaluationError("evaluation.no_items", where=f"evaluation.{assignment.task.name}")
    results: dict[str, dict[str, list[Result]]] = {}
    for side, engine in (("base", base), ("tuned", tuned)):
        cached = CachedEngine(engine, folder)
        results[side] = {}
        for assignment in assignments:
            told.start(
                say("evaluation.asking", task=assignment.task.name, model=engine.name),
                len(assignment.items) * assignment.task.steps_per_item,
            )
            results[side][assignment.task.name] = assignment.task.run(cached, assignment.items, watch=told.advance)
            told.finish()
    return {assignment.task.name: _section(assignment, results["base"], results["tuned"]) for assignment in assignments}


def _section(assignment: Assignment, base: dict[str, list[Result]], tuned: dict[str, list[Result]]) -> Section:
    name = assignment.task.name
    summary = assignment.task.compare(assignment.items, base[name], tuned[name])
    return Section(name, assignment.items, base[name], tuned[name], summary)
