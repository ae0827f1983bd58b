"""Probes: danlu's own suites of edge cases (`evaluation/probes.py`), the same for every project.

Where `edge` asks the user's edge cases, these ask whether a model still hears irony and negation, stands typing errors,
keeps a secret, keeps to a form, and says when a text does not say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from danlu.engines.engine import Engine, Sampling
from danlu.evaluation.items import Item
from danlu.evaluation.tasks.kinds import compare_kinds, run_kinds
from danlu.evaluation.tasks.task import Result


class Probes:
    name = "probes"
    steps_per_item = 1

    def __init__(self, sampling: Sampling | None = None) -> None:
        self.sampling = sampling or Sampling()

    def run(self, engine: Engine, items: Sequence[Item], *, watch: Callable[[int], None] | None = None) -> list[Result]:
        return run_kinds(engine, items, self.sampling, watch=watch)

    def compare(self, items: Sequence[Item], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
        return compare_kinds(items, base, tuned)
