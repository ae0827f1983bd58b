"""Over-fitting, under-fitting, or enough data? What the curves and the memorised rows say, and which knob to turn.

Reads a report's JSON; measures nothing. Each finding rests on figures that the finding quotes. Thresholds are rules of
thumb, named here; none of them ships or holds a model: the gate judges answers, this explains them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from danlu.core.messages import Language, lookup
from danlu.evaluation.gate import percent, points

ROSE = 1.05
"""Validation loss this much above its lowest has turned."""
GAP = 1.5
"""Validation loss over training loss from which rows are learnt rather than their matter; LEAST_GAP nats apart."""
LEAST_GAP = 0.1
STILL_FALLING = 0.97
"""A last check this much below the one before: training stopped too early."""
CARRIED_OVER = 0.3
"""Less of the gain than this reaches held-out rows: learnt by heart. Counts from a gain of LEAST_GAIN nats a token."""
LEAST_GAIN = 0.2
RECITES = 0.05
"""More trained rows than this are recited, beyond what the base and the held-out rows show."""
WORTH_DOUBLING = 0.02
"""A gain in accuracy by the last doubling of data from which more data is worth its cost."""
FEW_TAUGHT = 0.1
"""Fewer of the questions than this ask for an answer that training shows: where nothing was gained, that is why."""
LEAST_QUESTIONS = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is a catalogue key `proof.diagnosis_<code>`; a good finding has no remedy."""

    code: str
    is_good: bool
    values: dict[str, str]

    def text(self, language: Language | None = None) -> str:
        return lookup(f"proof.diagnosis_{self.code}", language)[0].format(**self.values)

    def remedy(self, language: Language | None = None) -> str:
        return lookup(f"proof.diagnosis_{self.code}", language)[1].format(**self.values)

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "is_good": self.is_good, "values": self.values}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Finding:
        return cls(told["code"], told["is_good"], dict(told["values"]))


def diagnose(report: Mapping[str, Any]) -> list[Finding]:
    """Findings on a report's `training`, `memorisation` and `curve`, and on its questions where nothing was gained; []
    where none of them was recorded."""
    training = report.get("training") or {}
    memorisation, curve = report.get("memorisation"), report.get("curve")
    found = [*_questions(report), *_losses(training), *_heart(memorisation or {}), *_data(curve or {})]
    if not found and (training.get("validation") or memorisation):
        found.append(Finding("healthy", True, {}))
    return found


def _questions(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Nothing gained on questions whose answers no row of training shows: it could not have been."""
    difference, files = report.get("difference"), (report.get("data") or {}).get("questions") or {}
    if not difference or difference["interval"][0] > 0:
        return
    for facts in files.values():
        num_asked = int(facts.get("looked_up", 0))
        if num_asked >= LEAST_QUESTIONS and facts["taught"] < FEW_TAUGHT * num_asked:
            yield Finding("untaught", False, {"taught": str(int(facts["taught"])), "asked": str(num_asked)})


def _losses(training: Mapping[str, Any]) -> Iterator[Finding]:
    checks = [(int(check["step"]), float(check["loss"])) for check in training.get("validation", [])]
    losses = [float(point["loss"]) for point in training.get("curve", [])]
    if len(checks) < 2:
        return
    best_step, best = min(checks, key=lambda check: check[1])
    last_step, last = checks[-1]
    if last > ROSE * best:
        yield Finding(
            "turned", False,
            {"best_step": str(best_step), "last_step": str(last_step), "best": f"{best:.3f}", "last": f"{last:.3f}",
             "share": percent(best_step / last_step)},
        )  # fmt: skip
    elif last == best and last < STILL_FALLING * checks[-2][1]:
        yield Finding("still_falling", False, {"before": f"{checks[-2][1]:.3f}", "last": f"{last:.3f}"})
    tail = losses[-max(1, len(losses) // 10) :]
    if tail and best > max(GAP * fmean(tail), fmean(tail) + LEAST_GAP):
        yield Finding("gap", False, {"train": f"{fmean(tail):.3f}", "validation": f"{best:.3f}"})


def _heart(section: Mapping[str, Any]) -> Iterator[Finding]:
    gain, carried = section.get("trained_gain"), section.get("carried_over")
    if gain and carried is not None and gain["interval"][0] > LEAST_GAIN and carried < CARRIED_OVER:
        yield Finding("by_heart", False, {"carried": percent(max(0.0, carried))})
    tuned, base = section.get("tuned", {}), section.get("base", {})
    if "trained" in tuned and "trained" in base:
        recited, before = tuned["trained"], base["trained"]
        elsewhere = tuned.get("held_out", {}).get("long_copy_ratio", 0.0)
        if recited["long_copy_ratio"] > RECITES + max(before["long_copy_ratio"], elsewhere):
            yield Finding(
                "recites", False,
                {"share": percent(recited["long_copy_ratio"]), "rows": str(recited["num_continued"]),
                 "longest": str(recited["longest_copy"])},
            )  # fmt: skip


def _data(curve: Mapping[str, Any]) -> Iterator[Finding]:
    doubling = curve.get("doubling")
    if not doubling:
        return
    low, high = doubling["interval"]
    values = {"gain": points(doubling["value"]), "low": points(low), "high": points(high)}
    if low > 0 and doubling["value"] >= WORTH_DOUBLING:
        yield Finding("more_data", False, values)
    elif high < WORTH_DOUBLING:
        yield Finding("enough_data", True, values)
    else:
        yield Finding("unsure_data", True, values)
