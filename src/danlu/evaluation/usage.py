"""What asking cost: answers, tokens, time. Counted beside every evaluation, the same for local and remote engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from danlu.engines.engine import Answer


@dataclass(slots=True)
class Usage:
    """`seconds` sums what each answer took, those that were remembered included: what it costs to have them all."""

    num_answers: int = 0
    num_asked: int = 0
    num_failed: int = 0
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    def count(self, answers: Sequence[Answer], *, num_asked: int) -> None:
        self.num_answers += len(answers)
        self.num_asked += num_asked
        self.num_failed += sum(answer.finish == "error" for answer in answers)
        self.num_prompt_tokens += sum(answer.num_prompt_tokens for answer in answers)
        self.num_tokens += sum(answer.num_tokens for answer in answers)
        self.seconds += sum(answer.seconds for answer in answers)
        self.latencies += [answer.seconds for answer in answers]

    def to_json(self) -> dict[str, Any]:
        return {
            "answers": self.num_answers, "asked": self.num_asked, "failed": self.num_failed,
            "prompt_tokens": self.num_prompt_tokens, "answer_tokens": self.num_tokens,
            "seconds": round(self.seconds, 3), "seconds_per_answer": percentiles(self.latencies),
        }  # fmt: skip


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50 and p95; one value is both, none is nothing."""
    if len(seconds) < 2:
        return {"p50": round(seconds[0], 4), "p95": round(seconds[0], 4)} if seconds else {}
    cuts = quantiles(seconds, n=20, method="inclusive")
    return {"p50": round(cuts[9], 4), "p95": round(cuts[18], 4)}
