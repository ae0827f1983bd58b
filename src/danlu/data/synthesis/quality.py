"""A judge's points, 1 to 5: two passes with the criteria in other orders, a third where they disagree; the median.

4 points and more need a quote that is really in the passage; a judge who cannot point at anything is not believed.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass

from danlu.data.language import language_of
from danlu.data.sample import Conversation
from danlu.data.synthesis.evidence import Quotable
from danlu.data.synthesis.prompts import fenced, messages, told
from danlu.data.synthesis.replies import parse_object, text_at
from danlu.data.synthesis.teacher import Ask, Clearance

UNQUOTED = 3
"""Most points of a verdict whose quote is not in the passage."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What is judged: a sample, the passage it was made from ("" for Self-Instruct), and its clearance."""

    sample: Conversation
    passage: str
    clearance: Clearance


def ask_judge(judged: Judged, number: int, *, seed: int) -> Ask:
    """The `number`-th pass: other dice, and the criteria in another order."""
    turns = judged.sample.messages
    language = language_of(turns[0].content)
    criteria = told(language, "criteria").split("\n")
    random.Random(f"{seed}:{number}").shuffle(criteria)  # noqa: S311 - an order, no secret
    spoken = "\n".join(
        told(language, "judge_asked", question=question.content, answer=answer.content)
        for question, answer in zip(turns[::2], turns[1::2], strict=True)
    )
    passage = told(language, "judge_passage", passage=fenced(judged.passage)) if judged.passage else ""
    system = told(language, "judge", criteria=("；" if language == "zh" else "; ").join(criteria))
    user = "\n\n".join(part for part in (passage, fenced(spoken)) if part)
    return Ask(messages(system, user), judged.clearance, 400, 0.3 if number else 0.0, seed + number)


def points_of(reply: str, judged: Judged) -> int | None:
    """1 to 5, or None when the reply holds no verdict."""
    said = parse_object(reply)
    given = text_at(said, "score", "points") if said else ""
    try:
        points = round(float(given.split("/")[0]))
    except ValueError:
        return None
    if said is None or not 1 <= points <= 5:
        return None
    quote = text_at(said, "quote")
    declines = judged.sample.tags.get("question") == "unanswerable"
    if judged.passage and not declines and points > UNQUOTED:
        return points if quote and Quotable(judged.passage).find_all(quote) else UNQUOTED
    return points


def disagree(points: list[int | None]) -> bool:
    """Whether two passes leave the verdict open."""
    known = [given for given in points if given is not None]
    return len(set(known)) > 1 or len(known) < 2


def verdict(points: list[int | None]) -> int | None:
    """The median of what was given, rounded down; None when nothing was."""
    known = [given for given in points if given is not None]
    return int(statistics.median(known)) if known else None
