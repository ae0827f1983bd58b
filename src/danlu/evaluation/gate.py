"""The gate: ship or hold, each check with its reason and, where it fails, its remedy. Pure arithmetic on a report.

A check that is asked for but was not measured holds: silence is no proof. Thresholds of 0 for accuracy and consistency
mean "not asked for". A gain counts only when its interval leaves out zero and its test agrees. For what may be
forgotten the burden is turned round: over all general questions a loss beyond the margin must be ruled out (`loss.py`).
In a category, where sixty questions rule out little, the measured loss counts, unless `prove_categories` asks for the
same proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from danlu.core.messages import Language, current_language, load_room, lookup, say
from danlu.evaluation.loss import items_to_prove, kept

Decision = Literal["ship", "hold"]

# More failed answers than this, and the accuracies themselves are in doubt.
MAX_ERROR_RATIO = 0.01
MAX_UNREAD = 0.1
"""Of more questions than this no verdict came: those that did are not all, and not by chance."""
EVEN = 0.5
"""The win rate of two equal models."""
MAX_UNENDED = 0.1
"""More answers than this cut or looping, and more than the base has: the end token was lost, or room is short."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One check: `code` is a catalogue key `evaluation.gate_<code>`, `values` fill it."""

    code: str
    passed: bool
    values: dict[str, str]

    def text(self, language: Language | None = None) -> str:
        return lookup(f"evaluation.gate_{self.code}", language)[0].format(**self._spoken(language))

    def remedy(self, language: Language | None = None) -> str:
        """What to do about it; "" where the check passed."""
        return (
            "" if self.passed else lookup(f"evaluation.gate_{self.code}", language)[1].format(**self._spoken(language))
        )

    def _spoken(self, language: Language | None) -> dict[str, str]:
        """The values, names of suites and categories in the reader's language."""
        if "names" not in self.values:
            return self.values
        names = [part_name(name, language) for name in self.values["names"].split(",")]
        return self.values | {"names": say("report.list_comma", language).join(names)}

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
    min_accuracy: float | None = 0.0
    min_consistency: float | None = 0.0
    max_loss: float | None = None
    max_category_loss: float | None = None
    prove_categories: bool = False
    max_probe_loss: float | None = None
    min_win_rate: float | None = None
    max_suite_loss: float | None = None

    def judge(self, report: Mapping[str, Any]) -> GateVerdict:
        """The verdict on a report's JSON."""
        reasons = [*self._gain(report), *self._accuracy(report), *self._consistency(report), *self._forget(report)]
        reasons += [*self._general(report), *self._categories(report), *self._probes(report)]
        reasons += [*self._judged(report), *self._suites(report)]
        reasons += [*_endings(report), *_parity(report), *_errors(report)]
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
        if self.min_gain > 0 and difference["direction"] != "better":
            return [Reason("gain_by_chance", False, values | {"p": f"{difference['p']:.2f}"})]
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

    def _general(self, report: Mapping[str, Any]) -> list[Reason]:
        if self.max_loss is None:
            return []
        section = report.get("general")
        if not section:
            return [Reason("unmeasured", False, {"check": "gate.max_loss", "task": "forgetting"})]
        changes, bounds = section["difference"], section["bounds"]
        counts = changes["num_gained"], changes["num_lost"], changes["num_items"]
        values = {
            "change": points(changes["value"]), "low": points(bounds[0]), "high": points(bounds[1]),
            "wanted": plain_points(self.max_loss), "items": str(changes["num_items"]),
            "gained": str(changes["num_gained"]), "lost": str(changes["num_lost"]),
            "needed": str(items_to_prove(*counts, self.max_loss)) if self.max_loss > 0 else "–",
        }  # fmt: skip
        verdict = kept(bounds, self.max_loss)
        return [Reason(f"general_{verdict}", verdict == "kept", values)]

    def _categories(self, report: Mapping[str, Any]) -> list[Reason]:
        """One reason for all categories: those that lost too much, or how far a loss is ruled out in each."""
        section = report.get("general")
        if self.max_category_loss is None or not section:
            return []  # the missing section is already spoken of
        margin, fallen, unproven = self.max_category_loss, [], []
        for name, category in section["categories"].items():
            if category["difference"]["value"] < -margin:
                fallen.append(name)
            elif kept(category["bounds"], margin) != "kept":
                unproven.append(name)
        values = {
            "wanted": plain_points(margin),
            "unproven": str(len(unproven)),
            "all": str(len(section["categories"])),
        }
        if fallen:
            worst = min(section["categories"].values(), key=lambda one: one["difference"]["value"])
            named = values | {"names": ",".join(fallen), "worst": points(worst["difference"]["value"])}
            return [Reason("category_lost", False, named)]
        if unproven and self.prove_categories:
            return [Reason("category_unproven", False, values | {"names": ",".join(unproven)})]
        return [Reason("category_unsure" if unproven else "category_kept", True, values)]

    def _probes(self, report: Mapping[str, Any]) -> list[Reason]:
        """Suites that fell by more than allowed, beyond doubt. Without the task nothing is claimed."""
        section = report.get("probes")
        if self.max_probe_loss is None or not section:
            return []
        changes = {kind: part["difference"] for kind, part in section["kinds"].items()}
        values = {"wanted": plain_points(self.max_probe_loss), "num": str(len(changes))}
        fallen = [k for k, d in changes.items() if d["direction"] == "worse" and d["value"] < -self.max_probe_loss]
        if not fallen:
            return [Reason("probes_kept", True, values)]
        worst = min(changes[kind]["value"] for kind in fallen)
        return [Reason("probes_lost", False, values | {"names": ",".join(fallen), "worst": points(worst)})]

    def _judged(self, report: Mapping[str, Any]) -> list[Reason]:
        """The judge's preference. One that people were found to disagree with proves nothing."""
        if self.min_win_rate is None:
            return []
        pairs = (report.get("judged") or {}).get("pairs") or {}
        if "win_rate" not in pairs:
            return [Reason("unmeasured", False, {"check": "gate.min_win_rate", "task": "judge"})]
        low, high = ((1 + edge) / 2 for edge in pairs["difference"]["interval"])
        values = {"rate": percent(pairs["win_rate"]), "low": percent(low), "high": percent(high),
                  "wanted": percent(self.min_win_rate)}  # fmt: skip
        if (report["judged"].get("people") or {}).get("verdict") == "doubtful":
            return [Reason("judge_doubtful", False, values)]
        unread, asked = pairs.get("num_unread", 0), pairs.get("num_items", 0)
        if unread > MAX_UNREAD * asked:
            return [Reason("judge_unread", False, values | {"unread": str(unread), "items": str(asked)})]
        if pairs["win_rate"] < self.min_win_rate:
            return [Reason("judged_low", False, values)]
        if self.min_win_rate >= EVEN and low <= EVEN:
            return [Reason("judged_uncertain", False, values)]
        return [Reason("judged_passed", True, values)]

    def _suites(self, report: Mapping[str, Any]) -> list[Reason]:
        """Outside benchmarks that fell by more than allowed, beyond doubt. Without any nothing is claimed."""
        section = report.get("suites")
        if self.max_suite_loss is None or not section:
            return []
        changes = {name: part["difference"] for name, part in section.items()}
        values = {"wanted": plain_points(self.max_suite_loss), "num": str(len(changes))}
        fallen = [k for k, d in changes.items() if d["direction"] == "worse" and d["value"] < -self.max_suite_loss]
        if not fallen:
            return [Reason("suites_kept", True, values)]
        worst = min(changes[name]["value"] for name in fallen)
        return [Reason("suites_lost", False, values | {"names": ",".join(fallen), "worst": points(worst)})]


def _endings(report: Mapping[str, Any]) -> list[Reason]:
    """Only spoken of when answers run on."""
    told = (report.get("endings") or {}).get("domain")
    if not told or not told["tuned"]["num_answers"]:
        return []
    base, tuned = (told[side]["num_unended"] / max(1, told[side]["num_answers"]) for side in ("base", "tuned"))
    if tuned <= MAX_UNENDED or tuned <= base:
        return []
    return [Reason("endings_bad", False, {"tuned": percent(tuned), "base": percent(base)})]


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


def part_name(name: str, language: Language | None = None) -> str:
    """A suite's or category's name in the reader's language, where danlu knows one."""
    room = load_room("report", language or current_language())
    return next((str(room[key]) for key in (f"kind_{name}", f"category_{name}") if key in room), name)


def plain_points(difference: float) -> str:
    """0.02 → 2, without a sign"""
    return f"{100 * difference:.4g}"


def percent(ratio: float | None) -> str:
    """0.876 → 87.6%, and a dash for what was not measured"""
    return "–" if ratio is None else f"{100 * ratio:.1f}%"


def points(difference: float) -> str:
    """0.832 → +83.2, with a true minus sign: percentage points, or percent of a rise."""
    return f"{100 * difference:+.1f}".replace("-", "−")
