"""The table of answers before and after: searchable, filtered by won and lost, with the value looked for marked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from danlu.core import html
from danlu.core.messages import Language, say
from danlu.evaluation.report import Report
from danlu.evaluation.report_charts import KINDS

MOST_ROWS = 1000
"""Rows in the HTML; the JSON has all of them."""
_SHORT = 400
_OUTCOMES = ("gained", "lost", "both_right", "both_wrong")


def answers_section(report: Report, language: Language) -> Markup | None:
    """All single answers; below, folded away, the questions that were not answered right every time."""
    single = [row for row in report.items if row["task"] != "consistency"]
    repeated = [row for row in report.items if row["task"] == "consistency"]
    unstable = [row for row in repeated if not row["tuned"]["right"]]
    if not single and not unstable:
        return None
    blocks: list[Markup] = []
    if single:
        blocks.append(_table(single, language))
        if len(single) > MOST_ROWS:
            blocks.append(html.paragraph(say("report.more_rows", language, shown=MOST_ROWS, rows=len(single))))
    if unstable:
        title = say("report.unstable", language, rows=len(unstable))
        blocks.append(html.details(title, _repeats_table(unstable[:MOST_ROWS], language)))
    return html.section(say("report.answers", language), *blocks, lead=say("report.answers_lead", language))


def _table(rows: list[dict[str, Any]], language: Language) -> Markup:
    heads = [say(f"report.{key}", language) for key in ("question", "base_answer", "tuned_answer", "change")]
    filters = [html.Filter("", say("report.all", language))]
    filters += [html.Filter(name, say(f"report.{name}", language)) for name in _OUTCOMES]
    return html.filter_table(
        heads, [_row(row, language) for row in rows[:MOST_ROWS]], filters=filters,
        search=say("report.search", language), empty=say("report.nothing_found", language),
    )  # fmt: skip


def _row(row: Mapping[str, Any], language: Language) -> html.Row:
    outcome = _outcome(row)
    tones: dict[str, html.Tone] = {"gained": "good", "lost": "bad", "both_right": "soft", "both_wrong": "warn"}
    return html.Row(
        (
            _question(row, language), _answer(row, "base", language), _answer(row, "tuned", language),
            html.badge(say(f"report.{outcome}", language), tone=tones[outcome]),
        ),
        tags=(outcome,),
        keys=("", "", "", _OUTCOMES.index(outcome)),
    )  # fmt: skip


def _repeats_table(rows: list[dict[str, Any]], language: Language) -> Markup:
    heads = [say(f"report.{key}", language) for key in ("question", "tuned_answers")]
    shown = [html.Row((_question(row, language), Markup("").join(_repeats(row)))) for row in rows]
    return html.filter_table(
        heads, shown, search=say("report.search", language), empty=say("report.nothing_found", language)
    )


def _repeats(row: Mapping[str, Any]) -> list[Markup]:
    rights = row["tuned"]["details"].get("rights", [])
    return [
        _mark_right(right, _highlight(_cut(text), row["values"]))
        for text, right in zip(row["tuned"]["answers"], rights, strict=False)
    ]


def _outcome(row: Mapping[str, Any]) -> str:
    before, after = bool(row["base"]["right"]), bool(row["tuned"]["right"])
    if before == after:
        return "both_right" if after else "both_wrong"
    return "gained" if after else "lost"


def _question(row: Mapping[str, Any], language: Language) -> Markup:
    badges = []
    if row["kind"]:
        name = say(f"report.kind_{row['kind']}", language) if row["kind"] in KINDS else row["kind"]
        badges.append(html.badge(name))
    if row["control"]:
        badges.append(html.badge(say("report.control", language)))
    reference = say("report.reference", language, reference=row["reference"] or say("report.not_stated", language))
    return Markup("").join([
        html.tag("span", None, row["question"]),
        html.tag("span", {"class": "cell-note"}, reference),
        *badges,
    ])  # fmt: skip


def _answer(row: Mapping[str, Any], side: str, language: Language) -> Markup:
    result = row[side]
    if result["details"].get("error"):
        return html.badge(say("report.failed", language, error=result["details"]["error"]), tone="bad")
    text = result["answers"][0] if result["answers"] else ""
    shown = _highlight(_cut(text), row["values"]) if text else html.tag("i", None, say("report.silent", language))
    rest = None
    if len(text) > _SHORT:
        rest = html.details(say("report.whole", language), html.tag("span", None, text))
    notes = [
        html.badge(say(f"report.fault_{fault}", language), tone="warn")
        for fault in ("cut", "hedged", "parse_failure")
        if result["details"].get(fault)
    ]
    return Markup("").join([_mark_right(bool(result["right"]), shown), *notes, rest or Markup("")])


def _mark_right(right: bool, text: Markup) -> Markup:
    return html.tag("div", {"class": f"answer {'good' if right else 'bad'}"}, html.tag("span", None, text))


def _cut(text: str) -> str:
    return text if len(text) <= _SHORT else text[:_SHORT] + "…"


def _highlight(text: str, values: list[str]) -> Markup:
    """The text with the values looked for marked, where they stand literally."""
    # "80元" is not to be marked inside "180元", which would contradict the verdict beside it.
    wanted = [rf"(?<![\d.,]){re.escape(value)}(?!\d)" for value in values if value]
    if not wanted:
        return escape(text)
    parts = re.split(f"({'|'.join(wanted)})", text, flags=re.IGNORECASE)
    return Markup("").join(
        html.tag("mark", None, part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )
