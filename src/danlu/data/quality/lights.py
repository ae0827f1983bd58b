"""Traffic lights: what is measured, from where it is yellow or red, and nothing hidden in code: one table.

Each threshold's reason stands in the catalogue (`report_data.reason_<name>`) and is printed below the lights. A light
only shines where something was measured. Words and fixes are the catalogue's: `light_<name>`, `good_<name>`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from danlu.data.ledger import is_fault
from danlu.data.quality.facts import DataFacts, Histogram
from danlu.data.quality.tally import OTHERS

Tone = Literal["good", "warn", "bad"]
Found = tuple[float, dict[str, Any]] | None
"""The value held against the thresholds, and what the words want to say; None: not measured, no light."""
UNTREATED = frozenset({"keep", "report", "none", "flag", "ignore"})
"""Actions that leave a finding in the text as it was."""
LOW_SCORE = 0.6
RESTRICTED = "restricted"


@dataclass(frozen=True, slots=True)
class Threshold:
    """Yellow from `warn`, red from `bad`; where `is_least`, below them instead. `unit` says how to print both."""

    name: str
    warn: float
    bad: float | None
    measure: Callable[[DataFacts], Found]
    unit: Literal["ratio", "rows", "number"] = "ratio"
    is_least: bool = False

    def tone(self, value: float) -> Tone:
        for limit, tone in ((self.bad, "bad"), (self.warn, "warn")):
            if limit is not None and (value < limit if self.is_least else value >= limit):
                return "bad" if tone == "bad" else "warn"
        return "good"


@dataclass(frozen=True, slots=True)
class Light:
    name: str
    tone: Tone
    value: float
    values: Mapping[str, Any] = field(default_factory=dict)


def lights_of(facts: DataFacts) -> list[Light]:
    """All lights that can be told, red first, in the table's order within a colour."""
    found = []
    for threshold in THRESHOLDS:
        measured = threshold.measure(facts)
        if measured is not None:
            value, values = measured
            found.append(Light(threshold.name, threshold.tone(value), value, values))
    return sorted(found, key=lambda light: ("bad", "warn", "good").index(light.tone))


def _rows(facts: DataFacts) -> Found:
    return float(facts.num_rows), {"rows": facts.num_rows}


def _faulty(facts: DataFacts) -> Found:
    stages = facts.told.stages
    if not stages or not stages[0].rows_in:
        return None
    at_fault = {
        reason: count for stage in stages for reason, count in stage.dropped.items() if is_fault(stage.name, reason)
    }
    lost = sum(at_fault.values())
    reason = max(at_fault, key=lambda name: at_fault[name]) if at_fault else ""
    return lost / stages[0].rows_in, {"rows": lost, "of": stages[0].rows_in, "reason": reason}


def _twins(facts: DataFacts) -> Found:
    twins = facts.told.twins
    if twins is None or not twins.num_rows:
        return None
    copies = twins.num_exact + twins.num_near
    return copies / twins.num_rows, {"rows": twins.num_rows, "copies": copies, "left": twins.num_rows - copies}


def _conflicts(facts: DataFacts) -> Found:
    conflicts = facts.told.conflicts
    if conflicts is None or not facts.num_rows:
        return None
    return conflicts.num_rows / max(facts.num_rows, conflicts.num_rows), {
        "questions": conflicts.num_questions,
        "rows": conflicts.num_rows,
    }


def _over(facts: DataFacts) -> Found:
    lengths = facts.told.lengths
    if lengths is None or lengths.tokens is None or not lengths.context:
        return None
    num_rows = max(lengths.tokens.num, lengths.num_over, 1)
    return lengths.num_over / num_rows, {
        "rows": lengths.num_over,
        "cut": lengths.num_cut,
        "context": lengths.context,
        "longest": int(lengths.tokens.largest),
    }


def _largest_label(facts: DataFacts) -> Found:
    labels = facts.balance.get("labels")
    if not labels or len(labels) < 2:
        return None
    name = max(labels, key=lambda label: labels[label])
    return labels[name] / sum(labels.values()), {"label": name}


def _thin_label(facts: DataFacts) -> Found:
    labels = {name: count for name, count in facts.balance.get("labels", {}).items() if name != OTHERS}
    if len(labels) < 2:
        return None
    name = min(labels, key=lambda label: labels[label])
    return float(labels[name]), {"label": name, "rows": labels[name]}


def _privacy(facts: DataFacts) -> Found:
    """Findings that the policy leaves in the text, secrets and the like apart; nobody having looked counts as one."""
    if facts.told.privacy is None:
        return 1.0, {"is_off": True, "untreated": 0, "found": 0}
    others = [one for one in facts.told.privacy if one.level != RESTRICTED]
    untreated = sum(one.count for one in others if one.action in UNTREATED)
    return float(untreated), {"untreated": untreated, "found": sum(one.count for one in others)}


def _restricted(facts: DataFacts) -> Found:
    if facts.told.privacy is None:
        return None
    found = [one for one in facts.told.privacy if one.level == RESTRICTED]
    if not found:
        return None
    untreated = sum(one.count for one in found if one.action in UNTREATED)
    return float(untreated), {"untreated": untreated, "found": sum(one.count for one in found)}


def _quality(facts: DataFacts) -> Found:
    scores = facts.scores.get("rules")
    if scores is None or not scores.num:
        return None
    return _below(scores, LOW_SCORE), {"sampled": scores.num, "rules": tuple(facts.rules)[:3]}


def _grounding(facts: DataFacts) -> Found:
    made = facts.told.synthesis
    if made is None or not made.num_checked:
        return None
    return made.num_grounded / made.num_checked, {"grounded": made.num_grounded, "checked": made.num_checked}


def _yield(facts: DataFacts) -> Found:
    made = facts.told.synthesis
    if made is None or not made.num_made:
        return None
    reason = max(made.rejected, key=lambda name: made.rejected[name]) if made.rejected else ""
    return made.num_kept / made.num_made, {"kept": made.num_kept, "made": made.num_made, "reason": reason}


def _coverage(facts: DataFacts) -> Found:
    coverage = facts.coverage
    if coverage is None or not coverage.num_documents:
        return None
    return coverage.num_without / coverage.num_documents, {
        "without": coverage.num_without,
        "documents": coverage.num_documents,
    }


def _diversity(facts: DataFacts) -> Found:
    diversity = facts.diversity
    if diversity is None or diversity.num_sampled < 20:
        return None
    return diversity.mean_nearest, {"sampled": min(diversity.num_sampled, 1000)}


def _leaks(facts: DataFacts) -> Found:
    certificate = facts.told.certificate
    if not certificate:
        return None
    across = sum(int(certificate.get(name) or 0) for name in LEAKS)
    return float(across), {"across": across}


def _nearest(facts: DataFacts) -> Found:
    nearest = facts.told.certificate.get("max_similarity")
    if not nearest or not facts.parts.get("test"):
        return None
    value = float(nearest["value"] if isinstance(nearest, Mapping) else nearest)
    return value, {"similarity": f"{value:.2f}"}


def _answers(facts: DataFacts) -> Found:
    """Held-out answers that are mostly made of what train says elsewhere: under another question, no twin."""
    found = facts.told.certificate.get("answers_in_train")
    if not found or not found["asked"]:
        return None
    return found["over_half"] / found["asked"], {"rows": found["over_half"], "asked": found["asked"]}


def _test(facts: DataFacts) -> Found:
    if facts.told.has_questions and not facts.parts.get("test"):
        return None
    return float(facts.parts.get("test", 0)), {"rows": facts.parts.get("test", 0)}


def _replay(facts: DataFacts) -> Found:
    replay = facts.told.replay
    return (0.0, {"wanted": 0.0}) if replay is None else (replay.share, {"wanted": replay.wanted})


def _below(histogram: Histogram, limit: float) -> float:
    counted = sum(count for edge, count in zip(histogram.edges, histogram.counts, strict=True) if edge + 1e-9 < limit)
    return counted / histogram.num


LEAKS = (
    "twins_across",
    "near_twins_across",
    "questions_across",
    "documents_across",
    "clusters_across",
    "parents_across",
)
THRESHOLDS = (
    Threshold("leaks", 1, 1, _leaks, "number"),
    Threshold("restricted", 1, 1, _restricted, "number"),
    Threshold("privacy", 1, None, _privacy, "number"),
    Threshold("rows", 200, 50, _rows, "rows", is_least=True),
    Threshold("faulty", 0.05, 0.20, _faulty),
    Threshold("twins", 0.10, 0.30, _twins),
    Threshold("conflicts", 0.005, 0.03, _conflicts),
    Threshold("over", 0.01, 0.10, _over),
    Threshold("quality", 0.05, 0.20, _quality),
    Threshold("grounding", 0.98, 0.90, _grounding, is_least=True),
    Threshold("yield", 0.50, 0.20, _yield, is_least=True),
    Threshold("coverage", 0.05, 0.25, _coverage),
    Threshold("diversity", 0.60, 0.80, _diversity, "number"),
    Threshold("largest_label", 0.80, 0.95, _largest_label),
    Threshold("thin_label", 20, 5, _thin_label, "rows", is_least=True),
    Threshold("nearest", 0.70, 0.80, _nearest, "number"),
    Threshold("answers", 0.05, 0.25, _answers),
    Threshold("test", 200, 30, _test, "rows", is_least=True),
    Threshold("replay", 0.05, None, _replay, is_least=True),
)
