"""Rows in files, a stage that shouts, and what a conveyor gave, for tests of the flow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from danlu.data.flow.conveyor import Conveyed
from danlu.data.flow.piece import num_rows, streamed
from danlu.data.sample import Conversation, Sample, replace
from danlu.data.stage import Fate, Outcome
from danlu.data.texts import texts_of


@dataclass(frozen=True)
class Shout:
    """A stage for tests: drops rows about cats, flags rows about dogs, shouts the rest."""

    volume: int = 1

    @property
    def name(self) -> str:
        return "shout"

    def key(self) -> dict[str, Any]:
        return {"version": 1, "volume": self.volume}

    def __call__(self, samples: Sequence[Sample]) -> list[Outcome]:
        return [self._outcome(sample) for sample in samples]

    def _outcome(self, sample: Sample) -> Outcome:
        text = "".join(texts_of(sample))
        if "cat" in text:
            return None, (Fate("drop", "empty_text"),)
        if "dog" in text:
            return sample, (Fate("flag", "no_rows"),)
        assert isinstance(sample, Conversation)
        loud = tuple(replace(turn, content=turn.content + "!" * self.volume) for turn in sample.messages)
        return replace(sample, messages=loud), (Fate("change", "zero_width", {"num": self.volume}),)


def write_rows(path: Path, num: int, *, first: int = 0) -> Path:
    """Rows of differing length; every 10th about a cat, every 7th about a dog, every 13th no JSON."""
    lines = []
    for row in range(first, first + num):
        animal = "cat" if row % 10 == 3 else "dog" if row % 7 == 2 else "bird"
        asked = f"Question {row} about a {animal} number {row * 7919 % 1009}?"
        line = json.dumps({"question": asked, "answer": f"答案 {row} " + "ab c" * (row % 9)}, ensure_ascii=False)
        lines.append("{broken" if row % 13 == 5 else line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def content_of(found: Conveyed) -> list[tuple[Any, ...]]:
    rows = streamed(found.pieces, np.ones(num_rows(found.pieces), bool))
    return [(row.id, row.sample, row.origin, row.marks) for _, row in rows]


def refusals_of(found: Conveyed) -> list[str]:
    return [str(entry) for piece in found.pieces for entry in piece.refused]
