"""The gate: ship or hold, each check with its reason and, where it fails, its remedy. Pure arithmetic on a report.

A check that is asked for but was not measured holds: silence is no proof. Thresholds of 0 for accuracy and consistency
mean "not asked for". A gain counts only when its interval leaves out zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from danlu.core.messages import Language, lookup

Decision = Literal["ship", "hold"]

# More failed answers than this, and the accuracies themselves are in doubt.
MAX_ERROR_RATIO = 0.01


@dataclass(frozen=True, slots=True)
class Reason:
    """One check: `code` is a catalogue key `evaluation.gate_<code>`, `values` fill it."""

    code: str
    passed: bool
    values: dict[str, str]

    def text(self, language: Language | None = None) -> str:
        return lookup(f"evaluation.gate_{self.code}", language)[0].format(**self.values)

    def remedy(self, language: Language | None = None) -> str:
        """What to do about it; "" where the check passed."""
        return "" if self.passed else lookup(f"evaluation.gate_{self.code}", language)[1].format(**self.values)

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "passed": self.passed, "values": self.values}


@dataclass(frozen=True, slots=True)
class GateVerdict:
    decision: Decision
    reasons: tuple[Reason, ...]

    def to_json(self) -> dict[str, Any]:
        return {"decision": self.decision, "reasons": [reason.to_json() for reason in self.reasons]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> GateVerdict:
        reasons = (Reason(entry["code"], entry["passed"], dict(entry["values"])) for entry in value["reasons"])
        return cls(value["decision"], tuple(reasons))


@dataclass(frozen=True, slots=True)
class Gate:
    """Thresholds: differences and shares in [0, 1]; `max_forget` is the allowed rise of perplexity (0.15 = 15 %)."""

    min_gain: float | None = 0.05
    max_forget: float | None = 0.15
    min_accuracy: float = 0.0
    min_consistency: float = 0.0

    def judge(self, report: Mapping[str, Any]) -> GateVerdict:
        """The verdict on a report's JSON."""
        reasons = [*self._gain(report), *self._accuracy(report), *self._consistency(report), *self._forget(report)]
        reasons += [*_parity(report), *_errors(report)]
        return GateVerdict("ship" if all(reason.passed for reason in reasons) else "hold", tuple(reasons))

    def _gain(self, report: Mapping[str, Any]) -> list[Reason]:
        if self.min_gain is None:
            return []
        difference = report.get("difference")
        wanted = points(self.min_gain)
        if not difference:
            return [Reason("unmeasured", False, {"check": "gate.min_gain", "task": "domain"})]
        low, high = difference["interval"]
        values = {
            "gain": points(difference["value"]), "low": points(low), "high": points(high), "wanted": wanted,
            "detectable": points(difference["detectable"]),
        }  # fmt: skip
        if difference["value"] < self.min_gain:
            return [Reason("gain_small", False, values)]
        if self.min_gain > 0 and low <= 0:
            return [Reason("gain_uncertain", False, values)]
        return [Reason("gain_passed", True, values)]

    def _accuracy(self, report: Mapping[str, Any]) -> list[Reason]:
        if not self.min_accuracy:
            return []
        accuracy = report.get("tuned", {}).get("accuracy")
        if accuracy is None:
            return [Reason("unmeasured", False, {"check": "gate.min_accuracy", "task": "domain"})]
        values = {"accuracy": percent(accuracy), "wanted": percent(self.min_accuracy)}
        passed = accuracy >= self.min_accuracy
        return [Reason("accuracy_passed" if passed else "accuracy_low", passed, values)]

    def _consistency(self, report: Mapping[str, Any]) -> list[Reason]:
        if not self.min_consistency:
            return []
        section = report.get("consistency")
        if not section:
            return [Reason("unmeasured", False, {"check": "gate.min_consistency", "task": "consistency"})]
        ratio = section["tuned"]["consistent_right"]
        values = {
            "ratio": percent(ratio), "wanted": percent(self.min_consistency), "repeats": str(section["repeats"]),
        }  # fmt: skip
        passed = ratio >= self.min_consistency
        return [Reason("consistency_passed" if passed else "consistency_low", passed, values)]

    def _forget(self, report: Mapping[str, Any]) -> list[Reason]:
        if self.max_forget is None:
            return []
        section = report.get("forgetting") or {}
        if "ratio" not in section:
            return [Reason("unmeasured", False, {"check": "gate.max_forget", "task": "forgetting"})]
        low, high = section["interval"]
        values = {
            "rise": points(section["ratio"] - 1), "low": points(low - 1), "high": points(high - 1),
            "wanted": percent(self.max_forget),
        }  # fmt: skip
        passed = section["ratio"] - 1 <= self.max_forget
        return [Reason("forget_passed" if passed else "forget_high", passed, values)]


def _parity(report: Mapping[str, Any]) -> list[Reason]:
    parity = report.get("parity") or {}
    if parity.get("verdict") in (None, "not run"):  # nothing was exported
        return []
    code = {"pass": "parity_passed", "incomplete": "parity_incomplete"}.get(parity["verdict"], "parity_failed")
    return [Reason(code, code == "parity_passed", {})]


def _errors(report: Mapping[str, Any]) -> list[Reason]:
    """Only spoken of when answers failed."""
    reasons = []
    for side in ("base", "tuned"):
        totals = report.get(side, {})
        num_errors, num_items = totals.get("faults", {}).get("error", 0), totals.get("num_items", 0)
        if num_items and num_errors / num_items > MAX_ERROR_RATIO:
            reasons.append(Reason(f"errors_{side}", False, {"errors": str(num_errors), "items": str(num_items)}))
    return reasons


def percent(ratio: float) -> str:
    """0.876 → 87.6%"""
    return f"{100 * ratio:.1f}%"


def points(difference: float) -> str:
    """0.832 → +83.2, with a true minus sign: percentage points, or percent of a rise."""
    return f"{100 * difference:+.1f}".replace("-", "−")
