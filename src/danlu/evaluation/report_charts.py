"""Which numbers of a report become which bars and points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from danlu.core.html import Bar, Interval, Tone
from danlu.evaluation.gate import percent, points
from danlu.evaluation.report import Report

Words = Callable[..., str]

KINDS = ("sarcasm", "negation", "unanswerable", "false_premise", "typo", "paraphrase", "injection", "format", "other")
"""Kinds of edge cases that danlu has a name for in both languages."""

MOST_PARTS = 8
"""A chart with more rows than this is no longer read; the JSON has them all."""


def overview_bars(report: Report, word: Words) -> list[tuple[str, list[Bar]]]:
    """Domain accuracy: overall, by language, by document where there are few."""
    if "accuracy" not in report.tuned:
        return []
    groups = [(word("overall"), _pair(report.base, report.tuned))]
    for part in ("language", "document"):
        parts = report.by.get(part, {})
        if len(parts) <= MOST_PARTS:
            groups += [
                (_name(part, name, word), _pair(both["base"], both["tuned"])) for name, both in sorted(parts.items())
            ]
    for kind, both in sorted((report.edge or {}).get("kinds", {}).items()):
        groups.append((_name("kind", kind, word), _pair(both["base"], both["tuned"])))
    return groups


def forest_rows(report: Report, word: Words) -> list[Interval]:
    """Every headline difference with its interval; those of the probes stand in their own section."""
    rows = []
    told = [name for name in report.tests if not name.startswith("probes:")]  # they have a table of their own
    for name in sorted(told, key=lambda name: (":" in name, name != "domain", name)):
        test = report.tests[name]
        low, high = test["interval"]
        task, _, kind = name.partition(":")
        label = _name("kind", kind, word) if kind else word(f"task_{task}")
        tone: Tone = "tuned" if low > 0 else "bad" if high < 0 else "base"
        rows.append(Interval(label, test["value"], low, high, points(test["value"]), tone))
    return rows


def stability_rows(report: Report, word: Words) -> list[tuple[str, list[tuple[float, Tone]]]]:
    """Shares of right each time, changing, and wrong each time."""
    assert report.consistency is not None, "only drawn where consistency was measured"
    kinds: tuple[tuple[str, Tone], ...] = (
        ("consistent_right", "good"),
        ("inconsistent", "warn"),
        ("consistent_wrong", "bad"),
    )
    return [
        (word(side), [(float(report.consistency[side][name]), tone) for name, tone in kinds])
        for side in ("base", "tuned")
    ]


def _pair(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> list[Bar]:
    return [_bar(base, "base"), _bar(tuned, "tuned")]


def _bar(totals: Mapping[str, Any], tone: Tone) -> Bar:
    low, high = totals["interval"]
    return Bar(totals["accuracy"], low, high, percent(totals["accuracy"]), tone)


def _name(part: str, name: str, word: Words) -> str:
    known = {"language": ("zh", "en"), "kind": KINDS}
    return word(f"{part}_{name}") if name in known.get(part, ()) else name
