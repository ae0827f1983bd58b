"""Section of the report that tells what others say of the answers: a judge, and other people's benchmarks. Composes
`core.html`; measures nothing."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from danlu.core import html
from danlu.core.messages import Language, say
from danlu.evaluation.gate import percent, points
from danlu.evaluation.report import Report


def outside_section(report: Report, language: Language) -> Markup | None:
    """None where nobody was asked."""
    cards = [card for card in (_judge_card(report.judged, language), _suites_card(report.suites, language)) if card]
    if not cards:
        return None
    return html.section(say("outside.title", language), *cards, lead=say("outside.lead", language))


def _judge_card(judged: dict[str, Any] | None, language: Language) -> Markup | None:
    if not judged:
        return None
    lines = judge_lines(judged, language)
    return html.card(say("outside.judge", language, judge=judged["judge"]), *map(html.paragraph, lines))


def judge_lines(judged: dict[str, Any], language: Language) -> list[str]:
    """Who won and how sure that is, what the judge's habits are, and whether people agree with it."""
    pairs, scores = judged["pairs"], judged["scores"]
    lines = []
    if "win_rate" in pairs:
        low, high = ((1 + edge) / 2 for edge in pairs["difference"]["interval"])
        lines.append(
            say("judge.won", language, win_rate=percent(pairs["win_rate"]), low=percent(low), high=percent(high),
                num=pairs["num_items"] - pairs["num_unread"], ties=pairs["ties"])
        )  # fmt: skip
        same, first = pairs["same_in_both_orders"], pairs["first_shown_preferred"]
        told = {"same": same, "first": first, "equal": pairs["win_rate_at_equal_length"]}
        lines.append(say("judge.biases", language, **{k: percent(v) for k, v in told.items()}))
    if "difference" in scores:
        sides = {side: f"{scores[side]['mean']:.2f}" for side in ("base", "tuned")}
        lines.append(say("judge.scores", language, **sides))
    reading = judged.get("reading") or {}
    if reading.get("unread"):
        lines.append(say("judge.unread", language, unread=reading["unread"], asked=reading["asked"]))
    verdict = (judged.get("people") or {}).get("verdict", "unmeasured")
    lines.append(say(f"outside.people_{verdict}", language))
    return [*lines, *judged["warnings"]]


def _suites_card(suites: dict[str, Any], language: Language) -> Markup | None:
    if not suites:
        return None
    heads = [say(f"harness.{name}", language) for name in ("task", "items", "base", "tuned", "difference", "p")]
    return html.card(say("outside.suites", language), html.table(heads, suite_rows(suites)))


def suite_rows(suites: dict[str, Any]) -> list[list[str]]:
    """Task, items, base, tuned, difference with interval, adjusted p."""
    rows = []
    for name, section in suites.items():
        low, high = section["difference"]["interval"]
        sides = [percent(section[side].get("mean", section[side]["accuracy"])) for side in ("base", "tuned")]
        change = f"{points(section['difference']['value'])} ({points(low)} … {points(high)})"
        rows.append([name, str(section["base"]["num_items"]), *sides, change, f"{section['p_adjusted']:.3g}"])
    return rows
