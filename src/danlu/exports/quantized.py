"""What was trained on a quantised base, against what merging ships: which base takes the update, and how far that is.

There are two: the base's own weights, finer than those that were trained on, and what the codes stand for, which are
those that were trained on. Neither is better beforehand. Both are asked the same texts and held-out questions
(`choose_merging`): the one nearer to what was trained, and judged, is taken, unless the other answers so many more
questions rightly that chance does not explain it.

What is taken must be as near to the trained model as the base is to its quantised self: that is measured on the same
texts with the adapter off, and the adapter must not make it much larger. Both numbers stand in the manifest (`bases_…`:
the two bases).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from danlu.engines.native import NativeEngine
from danlu.exports.export import Quiz, Subject
from danlu.exports.parity import (
    MAX_POSITIONS,
    Check,
    Difference,
    Record,
    compare,
    lead_at_parting,
    limits_of,
    margin_of,
    record,
)
from danlu.exports.reload import COMPUTE_FACTOR, living

Onto = Literal["codes", "original"]
"""What the update is merged into: what the codes stand for, or the base's own weights."""
SIGNIFICANT = 0.05
MAX_QUIZ_TOKENS = 64

FACTOR = 2.0
"""Trained and merged may be this many times as far apart as the two bases are; KL grows with the square."""


def check_quantized(subject: Subject, trained: NativeEngine) -> list[Check]:
    """`subject` is the unquantised engine with the adapter, `trained` the quantised one that was trained."""
    records = list(subject.records)
    quantising = compare(base_records(records, subject.engine), trained.base())
    # Where the update goes into what the codes stand for, only arithmetic lies between the two.
    arithmetic = living(subject).floor
    floor = quantising.worst(arithmetic)
    found = compare(records, trained)
    noise = limits_of(arithmetic, COMPUTE_FACTOR)
    limits = {
        "max_abs": max(FACTOR * floor.max_abs, noise["max_abs"]),
        "mean_abs": max(FACTOR * floor.mean_abs, noise["mean_abs"]),
        "mean_kl": max(FACTOR**2 * floor.mean_kl, noise["mean_kl"]),
    }
    measured = asdict(found)
    is_near = all(measured[key] <= limit for key, limit in limits.items())
    bases = {f"bases_{key}": getattr(quantising, key) for key in (*limits, "num_flips")}
    return [
        Check("quantized_logits", "pass" if is_near else "fail", measured | bases, limits),
        check_agreement(records, trained, floor, subject.max_new_tokens),
    ]


def base_records(records: Sequence[Record], engine: NativeEngine) -> list[Record]:
    """What the bare base says to the same texts."""
    base = engine.base()
    found = []
    for told in records:
        (logits_TV,) = base.logits([list(told.text_ids)])
        found.append(replace(told, logits=logits_TV[-MAX_POSITIONS:].float().cpu().clone()))
    return found


def check_agreement(records: Sequence[Record], trained: NativeEngine, floor: Difference, max_new_tokens: int) -> Check:
    """Greedy answers may part where the unquantised model was as undecided as quantising can turn around."""
    answers = trained.continue_ids([told.prompt_ids for told in records], max_new_tokens)
    margin = max(2 * FACTOR * floor.max_abs, margin_of(floor))
    pairs = list(zip(records, answers, strict=True))
    leads = [lead_at_parting(told, answer) for told, answer in pairs if tuple(answer) != told.answer_ids]
    numbers = {
        "num_answers": len(records), "num_equal": len(records) - len(leads),
        "largest_lead_at_parting": max(leads, default=0.0),
    }  # fmt: skip
    is_near = numbers["largest_lead_at_parting"] <= margin
    limits = {"largest_lead_at_parting": margin}
    return Check("quantized_answers", "pass" if is_near else "fail", numbers, limits)


# ---- which base the update goes into


@dataclass(frozen=True, slots=True)
class Merging:
    """The two ways as they were measured, and the one that is taken. `kl` is of the trained model against each, nats
    per token; `p` of McNemar's exact test over the questions that only one of them answers rightly."""

    taken: Onto
    is_by_questions: bool
    kl: dict[Onto, float]
    num_right: dict[Onto, int]
    num_right_trained: int
    num_questions: int
    p: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def choose_merging(
    trained: NativeEngine,
    ways: dict[Onto, Callable[[], NativeEngine]],
    prompts: Sequence[Sequence[int]],
    quiz: Sequence[Quiz],
    max_new_tokens: int,
) -> Merging:
    """`ways` open one engine at a time, with the adapter on; each is dropped before the next."""
    records = record(trained, prompts, max_new_tokens=max_new_tokens)
    kl: dict[Onto, float] = {}
    right: dict[Onto, list[bool]] = {}
    for onto, open_way in ways.items():
        engine = open_way()
        kl[onto] = compare(records, engine).mean_kl
        right[onto] = answers_right(engine, quiz)
        del engine
    num_right = {onto: sum(each) for onto, each in right.items()}
    near, far = sorted(kl, key=lambda onto: kl[onto])
    num_near = sum(a and not b for a, b in zip(right[near], right[far], strict=True))
    num_far = sum(b and not a for a, b in zip(right[near], right[far], strict=True))
    p = mcnemar(num_near, num_far)
    is_by_questions = num_far > num_near and p < SIGNIFICANT
    num_trained = sum(answers_right(trained, quiz))
    taken = far if is_by_questions else near
    return Merging(taken, is_by_questions, kl, num_right, num_trained, len(quiz), p)


def answers_right(engine: NativeEngine, quiz: Sequence[Quiz]) -> list[bool]:
    if not quiz:
        return []
    answers = engine.continue_ids([engine.prompt_ids(each.question) for each in quiz], MAX_QUIZ_TOKENS)
    return [each.is_right(engine.encoder.answer_text(ids)) for each, ids in zip(quiz, answers, strict=True)]


def mcnemar(num_one: int, num_other: int) -> float:
    """Two-sided exact p of so many questions that only one, or only the other, answers rightly (McNemar 1947)."""
    num = num_one + num_other
    tail = sum(math.comb(num, k) for k in range(min(num_one, num_other) + 1)) / 2**num
    return min(1.0, 2.0 * float(tail))
