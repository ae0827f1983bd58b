"""The report as a short Markdown page, for a README, a merge request or a chat window."""

from __future__ import annotations

import re
from typing import Any

from danlu.core.messages import Language, current_language, say
from danlu.evaluation.gate import percent, points
from danlu.evaluation.report import Report
from danlu.evaluation.report_outside import suite_rows
from danlu.evaluation.worse import losses_of

MOST_LOST = 10
"""Lost answers that are quoted; report.html has every answer."""


def render_markdown(report: Report, *, language: Language | None = None) -> str:
    """Verdict, one table of numbers, the answers that got worse."""
    chosen = language or current_language()

    def word(key: str, **values: Any) -> str:
        return say(f"report.{key}", chosen, **values)

    lines = [f"# {_plain(report.name)}", ""]
    verdict = report.verdict
    lines += [f"**{word(verdict.decision if verdict else 'no_gate')}**", ""]
    for reason in verdict.reasons if verdict else ():
        remedy = f" → {reason.remedy(chosen)}" if reason.remedy(chosen) else ""
        lines.append(f"- {'✓' if reason.passed else '✗'} {reason.text(chosen)}{remedy}")
    losses = losses_of(report.to_json())
    if losses:
        lines += ["", f"**{say('proof.question_worse', chosen)}**", ""]
        lines += [f"- {_plain(loss.text(chosen))}" for loss in losses]
    lines += ["", f"| | {word('base')} | {word('tuned')} |", "|---|---:|---:|"]
    lines += [f"| {' | '.join(row)} |" for row in _numbers(report, word, chosen)]
    lost = [row for row in report.items if row["base"]["right"] and not row["tuned"]["right"]]
    if lost:
        lines += ["", f"## {word('lost')} ({len(lost)})", ""]
        lines += [f"- {_plain(row['question'])} → {_plain(_said(row))}" for row in lost[:MOST_LOST]]
    return "\n".join(lines) + "\n"


def _numbers(report: Report, word: Any, language: Language) -> list[tuple[str, str, str]]:
    rows = []
    if report.difference is not None:
        gain = f"{percent(report.tuned['accuracy'])} ({points(report.difference['value'])})"
        rows.append((word("overall"), percent(report.base["accuracy"]), gain))
    if report.consistency is not None:
        sides = [percent(report.consistency[side]["consistent_right"]) for side in ("base", "tuned")]
        rows.append((word("consistency"), *sides))
    for task in ("general", "probes"):
        if (section := getattr(report, task)) is not None:
            gain = f"{percent(section['tuned']['accuracy'])} ({points(section['difference']['value'])})"
            rows.append((say(f"proof.task_{task}", language), percent(section["base"]["accuracy"]), gain))
    if report.forgetting is not None and "ratio" in report.forgetting:
        before, after = (report.forgetting[side]["perplexity"] for side in ("base", "tuned"))
        rows.append((word("forgetting"), f"{before:.1f}", f"{after:.1f} (×{report.forgetting['ratio']:.2f})"))
    if report.judged and "win_rate" in report.judged["pairs"]:
        name = say("outside.judge", language, judge=report.judged["judge"])
        rows.append((_plain(name), "–", percent(report.judged["pairs"]["win_rate"])))
    rows += [(_plain(row[0]), row[2], f"{row[3]} ({row[4]})") for row in suite_rows(report.suites)]
    if report.preference is not None:
        rows.append((word("preference"), "–", percent(report.preference["implicit_reward"]["value"])))
    return rows


def _said(row: dict[str, Any]) -> str:
    answers = row["tuned"]["answers"]
    return str(answers[0]) if answers else ""


def _plain(text: str) -> str:
    """On one line, with Markdown's and HTML's own characters made harmless."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))[:300]
