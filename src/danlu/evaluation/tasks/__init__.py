"""The shelf of tasks: what is measured. To add one: a class with `name`, `run` and `compare` (see `task.py`) and one
line here, or an entry point `danlu.tasks` of another package."""

from __future__ import annotations

from typing import Any

from danlu.core.shelf import Shelf
from danlu.evaluation.tasks.task import Result, Task

__all__ = ["TASKS", "Result", "Task"]

TASKS: Shelf[type[Task[Any]]] = Shelf(
    "tasks",
    {
        "domain": "danlu.evaluation.tasks.domain:Domain",
        "consistency": "danlu.evaluation.tasks.consistency:Consistency",
        "edge": "danlu.evaluation.tasks.edge:Edge",
        "forgetting": "danlu.evaluation.tasks.forgetting:Forgetting",
        "preference": "danlu.evaluation.tasks.preference:Preference",
        "probes": "danlu.evaluation.tasks.probes:Probes",
        "general": "danlu.evaluation.tasks.general:General",
        "memorisation": "danlu.evaluation.tasks.memorisation:Memorisation",
    },
)
