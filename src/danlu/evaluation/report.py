"""The Report: what an evaluation found, as JSON that scripts rely on (`danlu.report/1`); HTML and Markdown follow.

Top-level keys (absent tasks leave null):
`base`, `tuned`  {name, digest, accuracy, interval [low, high], num_items, num_groups, num_right, faults}
`difference`     tuned − base: {value, interval, p, test, num_gained, num_lost, detectable, direction}
`metrics`        {name: {base, tuned, difference, signature, scale}} of further metrics; BLEU and chrF have scale 100
`by`             the comparison per language, document, kind
`classes`        labels only: confusion counts, parse failures under "", scores overall and per class
`consistency`    {base, tuned: {consistent_right, consistent_wrong, inconsistent, interval, ...}, repeats, temperature}
                 `ways` the same three shares for sampled, greedy and wordings
`edge`, `probes` {base, tuned, difference, kinds {sarcasm, negation, unanswerable, ...: {..., base.control, ...}}}:
                 the user's edge cases, and danlu's own suites
`general`        general questions: {base, tuned, difference, bounds [low, high], categories {name: the same}}
`memorisation`   {trained_gain, held_out_gain, carried_over, base, tuned {trained, held_out {loss, longest_copy, ...}}}
`endings`        per task {base, tuned {num_answers, num_unended, cut, looped, empty, control}}
`curve`          learning curve: {points [{ratio, num_rows, accuracy, interval}], doubling {value, interval, ...}}
`diagnosis`      [{code, is_good, values}], what the curves say and which knob to turn
`forgetting`     {ratio, interval, base.perplexity, tuned.perplexity, num_texts, num_tokens}
`preference`     {implicit_reward {value, interval}, base, tuned {raw, normalised}, num_pairs}
`judged`         a model's opinion: {judge, pairs {win_rate, difference, ...}, scores, people, inputs}
`suites`         outside benchmarks {"<harness>: <task>": {base, tuned, difference, metric, p_adjusted}}
`tests`          headline comparisons {name: {value, interval, p, p_holm}}, corrected together (Holm)
`items`          one row per question and task: question, reference, base and tuned {answers, right, value, details}
`gate`           {decision: ship | hold, reasons [{code, passed, values}]}
`stages`         what each training stage added: [{name, accuracy, interval, consistency, pair_accuracy, pair_interval,
                 perplexity}], see `stage_row`
`training`       {curve [{step, loss}], validation [{step, loss}], ...}, or of rewarded answers {rewards {training
                 [{step, reward}], validation [{step, reward}]}, ...}; `data` {ledger, split, lengths};
`parity`         {verdict: pass | fail, ...}
`footer`         digests of recipe, dataset and models, code version, hardware, seconds
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from danlu.core.errors import EvaluationError
from danlu.core.files import read_json, write_json
from danlu.engines.engine import Engine
from danlu.evaluation.clusters import clusters
from danlu.evaluation.diagnosis import diagnose
from danlu.evaluation.endings import count_endings
from danlu.evaluation.gate import Gate, GateVerdict
from danlu.evaluation.items import Item
from danlu.evaluation.runner import Section
from danlu.evaluation.stats import holm

SCHEMA = "danlu.report/1"
_ANSWERED_ONCE = ("domain", "edge", "probes", "general")
"""Tasks whose answers' ends are looked at."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the report tells beside its measurements; made by whoever ran training and export. All are plain JSON."""

    training: dict[str, Any] = field(default_factory=dict)
    """{"curve": [{"step", "loss"}], "validation": [{"step", "loss"}]} and any facts (epochs, lr, seconds)."""
    data: dict[str, Any] = field(default_factory=dict)
    """{"ledger": Ledger.to_json(), "split": certificate, "lengths": [tokens per sample]}"""
    stages: list[dict[str, Any]] = field(default_factory=list)
    """One `stage_row` per measured stage, the base first."""
    parity: dict[str, Any] = field(default_factory=dict)
    curve: dict[str, Any] | None = None
    """The learning curve, where `danlu evaluate --curve` has measured it."""
    footer: dict[str, Any] = field(default_factory=dict)
    """{"recipe", "dataset", "code", "hardware", "command", "seconds"}: shown as given, in this order."""


@dataclass(frozen=True, slots=True)
class Report:
    """One evaluation of a tuned model against its base; fields are the JSON's keys, see the top of this file."""

    name: str
    base: dict[str, Any]
    tuned: dict[str, Any]
    difference: dict[str, Any] | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    by: dict[str, Any] = field(default_factory=dict)
    classes: dict[str, Any] | None = None
    consistency: dict[str, Any] | None = None
    edge: dict[str, Any] | None = None
    forgetting: dict[str, Any] | None = None
    preference: dict[str, Any] | None = None
    probes: dict[str, Any] | None = None
    general: dict[str, Any] | None = None
    memorisation: dict[str, Any] | None = None
    endings: dict[str, Any] = field(default_factory=dict)
    curve: dict[str, Any] | None = None
    diagnosis: list[dict[str, Any]] = field(default_factory=list)
    tests: dict[str, Any] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)
    gate: dict[str, Any] | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    footer: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    """Sections of tasks that other packages put on the shelf."""
    judged: dict[str, Any] | None = None
    suites: dict[str, Any] = field(default_factory=dict)
    created: str = ""

    @property
    def verdict(self) -> GateVerdict | None:
        return GateVerdict.from_json(self.gate) if self.gate else None

    @property
    def consistency_ratio(self) -> float | None:
        """Share of questions that tuned answered right every time."""
        return None if self.consistency is None else float(self.consistency["tuned"]["consistent_right"])

    def compare(self, name: str = "base") -> dict[str, Any]:
        """Tuned against `base`: value, interval, p, direction. Another report's model: `compare_reports`."""
        if name != "base" or self.difference is None:
            raise EvaluationError("evaluation.no_comparison", given=name, where=self.name)
        return self.difference

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA} | asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, where: str = "report.json") -> Report:
        """Raises EvaluationError on another schema; keys that this version does not know are left out."""
        if value.get("schema") != SCHEMA:
            raise EvaluationError(
                "evaluation.foreign_report", where=where, given=value.get("schema", "-"), expected=SCHEMA
            )
        known = {entry.name for entry in fields(cls)}
        return cls(**{key: part for key, part in value.items() if key in known})

    def save(self, path: Path) -> None:
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Report:
        return cls.from_json(read_json(path), where=str(path))


def build_report(
    name: str,
    sections: Mapping[str, Section],
    *,
    base: Engine,
    tuned: Engine,
    gate: Gate | None = None,
    context: Context | None = None,
) -> Report:
    """The Report of `runner.run_tasks`' sections."""
    context = context or Context()
    summaries = {task: section.summary for task, section in sections.items()}
    domain = summaries.get("domain", {})
    known = ("domain", "consistency", "edge", "forgetting", "preference", "probes", "general", "memorisation")
    parts: dict[str, Any] = {
        "name": name,
        "base": {"name": base.name, "digest": base.digest} | domain.get("base", {}),
        "tuned": {"name": tuned.name, "digest": tuned.digest} | domain.get("tuned", {}),
        "difference": domain.get("difference"),
        "metrics": domain.get("metrics", {}),
        "by": domain.get("by", {}),
        "classes": domain.get("classes"),
        "others": {task: summary for task, summary in summaries.items() if task not in known},
        "tests": _tests(summaries),
        "items": [row for section in sections.values() for row in _rows(section)],
        "endings": {task: _ends(section) for task, section in sections.items() if task in _ANSWERED_ONCE},
        "curve": context.curve,
        "stages": context.stages,
        "training": context.training,
        "data": context.data,
        "parity": context.parity,
        "footer": {"base": base.digest, "tuned": tuned.digest} | context.footer,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    } | {task: summaries.get(task) for task in known[1:]}
    parts["gate"] = gate.judge(parts).to_json() if gate is not None else None
    parts["diagnosis"] = [finding.to_json() for finding in diagnose(parts)]
    return Report(**parts)


def with_curve(report: Report, curve: dict[str, Any]) -> Report:
    """The report with its learning curve, and diagnosed again."""
    report = replace(report, curve=curve)
    return replace(report, diagnosis=[finding.to_json() for finding in diagnose(_parts(report))])


def stage_row(name: str, report: Report, *, side: Literal["base", "tuned"] = "tuned") -> dict[str, Any]:
    """One stage's line of the table that shows what each stage added; what was not measured is null.

    Pair accuracy: how often the better answer is likelier per token, measured alike on the base and on every stage.
    """
    totals, forgetting = getattr(report, side), report.forgetting or {}
    pairs = (report.preference or {}).get(side, {}).get("normalised")
    return {
        "name": name,
        "accuracy": totals.get("accuracy"),
        "interval": totals.get("interval"),
        "consistency": (report.consistency or {}).get(side, {}).get("consistent_right"),
        "pair_accuracy": pairs["value"] if pairs else None,
        "pair_interval": pairs["interval"] if pairs else None,
        "perplexity": forgetting.get(side, {}).get("perplexity"),
    }


def with_outside(
    report: Report, judged: dict[str, Any] | None, suites: dict[str, Any], gate: Gate | None = None
) -> Report:
    """The report with what a judge and other people's benchmarks say, and the gate judges again."""
    return _judged_again(replace(report, judged=judged, suites=suites), gate)


def with_parity(report: Report, parity: dict[str, Any], gate: Gate | None = None) -> Report:
    """The report after export: the parity verdict is known, and the gate judges again."""
    return _judged_again(replace(report, parity=parity), gate)


def _judged_again(report: Report, gate: Gate | None) -> Report:
    return report if gate is None else replace(report, gate=gate.judge(_parts(report)).to_json())


def _parts(report: Report) -> dict[str, Any]:
    return {entry.name: getattr(report, entry.name) for entry in fields(report)}


def _tests(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The comparisons that a reader will take for news, corrected together."""
    found = {task: summaries[task]["difference"] for task in ("domain", "consistency") if task in summaries}
    if "general" in summaries:
        found["general"] = summaries["general"]["difference"]
    for task in ("edge", "probes"):
        for kind, section in summaries.get(task, {}).get("kinds", {}).items():
            found[f"{task}:{kind}"] = section["difference"]
    adjusted = holm({name: entry["p"] for name, entry in found.items()})
    return {
        name: {"value": entry["value"], "interval": entry["interval"], "p": entry["p"], "p_holm": adjusted[name]}
        for name, entry in found.items()
    }


def _rows(section: Section) -> list[dict[str, Any]]:
    rows = []
    groups = iter(clusters([item for item in section.items if isinstance(item, Item)]))
    for item, base, tuned in zip(section.items, section.base, section.tuned, strict=True):
        if isinstance(item, Item):
            rows.append(
                {
                    "id": item.id, "task": section.name, "question": item.text, "reference": item.reference,
                    "values": list(item.values), "kind": item.kind, "control": item.control, "group": next(groups),
                    "category": item.category, "language": item.language, "document": item.document,
                    "base": base.to_json(), "tuned": tuned.to_json(),
                }
            )  # fmt: skip
    return rows


def _ends(section: Section) -> dict[str, Any]:
    return {"base": count_endings(section.base), "tuned": count_endings(section.tuned)}
