"""The first screen of the report, for a reader who knows no statistics: five questions, five answers.

Is it better? By how much? How sure is that? What got worse? May I ship it? Everything else of the page is below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from danlu.core import html
from danlu.core.html.tag import Tone, join, tag
from danlu.core.messages import Language, say
from danlu.evaluation.clusters import LEAST_DOCUMENTS
from danlu.evaluation.gate import Reason, percent, points
from danlu.evaluation.report import Report
from danlu.evaluation.worse import losses_of

MOST_LOSSES = 3
"""Losses that the first screen tells; the sections below hold them all."""
CERTAIN_P = 0.001


@dataclass(frozen=True, slots=True)
class Reply:
    """One question with its answer in a word or two, and a sentence or a few lines about it."""

    question: str
    answer: str
    details: tuple[str, ...]
    tone: Tone = ""
    is_list: bool = False


def screen(report: Report, language: Language) -> Markup:
    """The verdict with the remedies that it asks for, and the other four answers beside each other."""
    replies = [_better(report, language), _much(report, language), _sure(report, language), _worse(report, language)]
    told = [reply for reply in replies if reply is not None]
    return join(_verdict(report, language), tag("div", {"class": "replies"}, *map(_cell, told)))


def checks(report: Report, language: Language) -> Markup | None:
    """Every check of the gate, passed ones too."""
    if report.verdict is None:
        return None
    lines = [_line(reason, language) for reason in report.verdict.reasons]
    return html.section(_say("checks", language), html.card("", tag("ul", {"class": "checks"}, *lines)))


def _verdict(report: Report, language: Language) -> Markup:
    verdict = report.verdict
    question = tag("p", {"class": "reply-question"}, _say("question_ship", language))
    if verdict is None:
        answer, detail, tone = _say("ship_open", language), _say("ship_open_detail", language), ""
        failed: list[Reason] = []
    else:
        failed = [reason for reason in verdict.reasons if not reason.passed]
        num = len(verdict.reasons)
        answer = _say("ship_yes" if verdict.decision == "ship" else "ship_no", language)
        detail = (
            _say("ship_no_detail", language, failed=len(failed), num=num)
            if failed
            else _say("ship_yes_detail", language, num=num)
        )
        tone = "good" if verdict.decision == "ship" else "warn"
    lines = [_line(reason, language) for reason in failed]
    title = tag("p", {"class": "banner-title"}, answer, tag("span", {"class": "banner-beside"}, detail))
    return tag(
        "div",
        {"class": f"banner {tone}".strip()},
        question,
        title,
        tag("ul", {"class": "checks"}, *lines) if lines else None,
    )


def _line(reason: Reason, language: Language) -> Markup:
    remedy = reason.remedy(language)
    return tag(
        "li",
        {"class": "passed" if reason.passed else "failed"},
        tag("span", {"class": "tick", "aria-hidden": "true"}, "✓" if reason.passed else "✗"),
        tag("span", None, reason.text(language), tag("span", {"class": "remedy"}, remedy) if remedy else None),
    )


def _cell(reply: Reply) -> Markup:
    lines: list[Markup] = [tag("p", {"class": "reply-detail"}, line) for line in reply.details]
    if reply.is_list:
        lines = [tag("ul", {"class": "reply-list"}, *(tag("li", None, line) for line in reply.details))]
    return tag(
        "div",
        {"class": "reply"},
        tag("p", {"class": "reply-question"}, reply.question),
        tag("p", {"class": f"reply-answer {reply.tone}".strip()}, reply.answer),
        *lines,
    )


def _better(report: Report, language: Language) -> Reply:
    question = _say("question_better", language)
    changes = report.difference
    if not changes:
        return Reply(question, _say("better_unmeasured", language), (_say("better_unmeasured_detail", language),))
    codes: dict[str, tuple[str, Tone]] = {
        "better": ("better_yes", "good"), "worse": ("better_no", "bad"), "no_evidence": ("better_unknown", "warn"),
    }  # fmt: skip
    code, tone = codes[changes["direction"]]
    base, tuned = percent(report.base["accuracy"]), percent(report.tuned["accuracy"])
    detail = _say("better_detail", language, items=report.tuned["num_items"], base=base, tuned=tuned)
    return Reply(question, _say(code, language), (detail,), tone)


def _much(report: Report, language: Language) -> Reply | None:
    changes = report.difference
    if not changes:
        return None
    answer = _say("much_points", language, points=points(changes["value"]))
    detail = _say("much_detail", language, gained=changes["num_gained"], lost=changes["num_lost"])
    return Reply(_say("question_much", language), answer, (detail,))


def _sure(report: Report, language: Language) -> Reply | None:
    changes = report.difference
    if not changes:
        return None
    low, high = changes["interval"]
    p = changes["p"]  # the one question of this screen; in the charts below it is corrected together with the others
    is_shown = changes["direction"] != "no_evidence"
    code: str = "sure_high" if is_shown and p < CERTAIN_P else "sure_good" if is_shown else "sure_low"
    tones: dict[str, Tone] = {"sure_high": "good", "sure_good": "good", "sure_low": "warn"}
    is_grouped = changes["num_groups"] < changes["num_items"]
    num_documents = _few_documents(report)
    form = f"documents_{min(num_documents, 2)}" if num_documents else "groups" if is_grouped else "plain"
    details = [
        _say(
            f"sure_detail_{form}", language, low=points(low), high=points(high), items=changes["num_items"],
            groups=changes["num_groups"], documents=num_documents,
        )
    ]  # fmt: skip
    if not is_shown:
        details.append(_say("sure_weak", language, detectable=points(changes["detectable"]).lstrip("+")))
    return Reply(_say("question_sure", language), _say(code, language), tuple(details), tones[code])


def _few_documents(report: Report) -> int:
    """How many documents the questions are on, where they are too few to speak for others; 0 where they are not."""
    documents = {row["document"] for row in report.items if row["task"] == "domain"}
    return len(documents) if "" not in documents and len(documents) < LEAST_DOCUMENTS else 0


def _worse(report: Report, language: Language) -> Reply:
    question = _say("question_worse", language)
    told = report.to_json()
    if not any(told[name] for name in ("forgetting", "general", "probes", "edge")):
        return Reply(question, _say("worse_unmeasured", language), (_say("worse_unmeasured_detail", language),), "warn")
    losses = losses_of(told)
    if not losses:
        return Reply(question, _say("worse_nothing", language), (), "good")
    lines = [loss.text(language) for loss in losses[:MOST_LOSSES]]
    if len(losses) > MOST_LOSSES:
        lines.append(_say("worse_more", language, num=len(losses) - MOST_LOSSES))
    num_shown = sum(loss.shown for loss in losses)
    answer = _say("worse_one" if len(losses) == 1 else "worse_some", language, num=len(losses))
    return Reply(question, answer, tuple(lines), "warn" if num_shown else "", is_list=True)


def _say(key: str, language: Language, /, **values: Any) -> str:
    return say(f"proof.{key}", language, **values)
