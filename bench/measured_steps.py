"""Steps that were measured (`bench/step.py`), read from a committed file, beside what the planner predicts of them.

Of a file like `bench/results/steps-h200.json`; its cases are written as `bench/step.py` takes them. No GPU, no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from danlu.planning import rates
from danlu.planning.bases import BASES
from danlu.planning.cards import Card, find_card
from danlu.planning.memory import Memory, predict_memory
from danlu.planning.policy import Mix, Policy
from danlu.planning.time import StepTime, predict_time
from danlu.planning.work import Work

G = 2**30
LONGEST_MIXED = 1024
"""Of the documents that `bench/step.py` mixes; `document_tokens` is the length of the one that a token stands in."""
PEAK_BAR, TIME_BAR = 0.05, 0.15


@dataclass(frozen=True)
class Point:
    """One measured step and its prediction."""

    told: dict[str, Any]
    work: Work
    mix: Mix
    memory: Memory
    time: StepTime

    @property
    def name(self) -> str:
        return f"{self.told['shape'].removeprefix('qwen2.5-')} {self.told['case']} {self.told['base']}"

    @property
    def predicted(self) -> dict[str, float]:
        """In the file's own units. The device's context is in none of them."""
        return {
            "ms": self.time.total_s * 1e3,
            "allocated_gib": (self.memory.allocated_bytes + rates.WORKSPACE_BYTES) / G,
            "reserved_gib": (self.memory.total_bytes - rates.CONTEXT_BYTES) / G,
        }

    @property
    def errors(self) -> dict[str, float]:
        """Predicted over measured, minus one."""
        return {key: value / self.told[key] - 1 for key, value in self.predicted.items() if self.told[key]}


def points_of(path: Path) -> Iterator[Point]:
    file = json.loads(path.read_text(encoding="utf-8"))
    card = find_card(file["hardware"])
    assert card is not None, f"{file['hardware']}: not in the table"
    for told in file["points"]:
        yield point_of(told, card)


def point_of(told: dict[str, Any], card: Card) -> Point:
    tokens, documents, policies, share, _ = (told["case"].split(":") + ["all", "1", ""][told["case"].count(":") - 1 :])[
        :5
    ]
    # write_shape unties the heads of all shapes, and takes one vocabulary for them
    shapes = replace(BASES[told["shape"]], tied=False, vocab=152_064)
    work = Work(
        shapes=shapes, context=int(documents) or LONGEST_MIXED, document_tokens=told.get("document_tokens", 0),
        micro_tokens=int(tokens), batch_tokens=int(tokens), supervised_ratio=float(share),
        precision="16" if told["base"] == "none" else told["base"],
    )  # fmt: skip
    runs = groupby(policies_of(policies, shapes.num_layers))
    mix = Mix(tuple((name, len(list(run))) for name, run in runs))
    return Point(told, work, mix, predict_memory(work, mix), predict_time(work, mix, card))


def policies_of(text: str, num_layers: int) -> list[Policy]:
    """`16*all-split+light-host`: so many layers of the first, the rest of the last."""
    policies: list[Any] = []
    for part in text.split("+"):
        count, _, name = part.rpartition("*")
        policies += [name] * int(count or num_layers - len(policies))
    return policies


def table(points: list[Point]) -> str:
    """One line a point, and how many are within the bars."""
    lines = [f"{'':48} {'ms':>22} {'allocated GiB':>22} {'reserved GiB':>22}"]
    for point in points:
        cells = [_cell(point, key) for key in ("ms", "allocated_gib", "reserved_gib")]
        lines.append(f"{point.name:48} " + " ".join(cells))
    for key, bar in (("ms", TIME_BAR), ("allocated_gib", PEAK_BAR), ("reserved_gib", PEAK_BAR)):
        errors = [point.errors[key] for point in points if key in point.errors]
        within = sum(abs(error) <= bar for error in errors)
        lines.append(f"{key}: {within} of {len(errors)} within {bar:.0%}, widest {max(errors, key=abs):+.1%}")
    return "\n".join(lines)


def _cell(point: Point, key: str) -> str:
    guess, found = point.predicted[key], point.told[key]
    error = f"{point.errors[key]:+.1%}" if found else "–"
    return f"{guess:7.2f} {found or float('nan'):7.2f} {error:>6}"
