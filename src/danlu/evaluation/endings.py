"""How answers end: with the end token, cut at the length limit, in a loop, empty, or with control tokens in the text.

A model whose end token was lost in training or export is found here: its answers run on. Reads what tasks recorded;
asks nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from danlu.evaluation.tasks.task import Result

_LOOP = re.compile(r"(.{1,60}?)\1{4,}\s*\S{0,60}$", re.DOTALL)
_SHORTEST_LOOP = 24
_CONTROL = re.compile(r"<\|[a-z_]+\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<eos>|<bos>")
FAULTS = ("cut", "looped", "empty", "control")


def faults_of(text: str, *, is_cut: bool) -> list[str]:
    """Which faults the end of an answer has."""
    found = ["cut"] if is_cut else []
    if (loop := _LOOP.search(text)) and len(loop[0]) >= _SHORTEST_LOOP:
        found.append("looped")
    if not text.strip():
        found.append("empty")
    if _CONTROL.search(text):
        found.append("control")
    return found


def count_endings(results: Iterable[Result]) -> dict[str, Any]:
    """How many answers there were, how many ended badly (cut or looping; an answer counts once), and each fault."""
    told: dict[str, Any] = {"num_answers": 0, "num_unended": 0} | dict.fromkeys(FAULTS, 0)
    for result in results:
        for text in _single(result):
            found = faults_of(text, is_cut=bool(result.details.get("cut")))
            told["num_answers"] += 1
            told["num_unended"] += bool({"cut", "looped"} & set(found))
            for fault in found:
                told[fault] += 1
    return told


def _single(result: Result) -> Sequence[str]:
    """The answer of a task that asks once; a failed answer has no end to look at."""
    return result.answers if len(result.answers) == 1 and not result.details.get("error") else ()
