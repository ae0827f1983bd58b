"""Preference pairs: the checked answer chosen, the base's own answer to the same question rejected.

On-policy pairs are what DPO learns most from: the rejected side is what the model really says today. Where base and
teacher agree there is nothing to prefer, and no pair is made.
"""

from __future__ import annotations

from danlu.data.identity import sample_id
from danlu.data.sample import Conversation, Message, Preference
from danlu.data.synthesis.facts import Fault, figures
from danlu.data.synthesis.teacher import Ask, Clearance, Reply
from danlu.data.synthesis.words import Reading, content_of, rouge_l, tokens_of

MAX_BASE_TOKENS = 256
ALIKE = 0.6


def can_be_asked(sample: Conversation) -> bool:
    """Whether a base can give the last answer itself: plain turns, no tools."""
    turns = sample.messages
    is_plain = not sample.tools and all(turn.role != "tool" and not turn.tool_calls for turn in turns)
    return is_plain and len(turns) > 1 and turns[-1].role == "assistant" and bool(turns[-1].content.strip())


def ask_base(sample: Conversation) -> Ask:
    """The conversation without its last answer, as a user would ask the base."""
    return Ask(sample.messages[:-1], Clearance.of(sample), MAX_BASE_TOKENS)


def pair_of(sample: Conversation, reply: Reply, reading: Reading) -> Preference | Fault:
    """The pair, or why none is made of it."""
    chosen, own = sample.messages[-1].content, reply.text.strip()
    if not own:
        return Fault("base_silent", {})
    if reply.finish == "length":
        return Fault("base_cut", {})
    if agrees(chosen, own, reading):
        return Fault("agrees", {})
    return Preference(
        sample.messages[:-1], (sample.messages[-1],), (Message("assistant", own),), sample.origin, group=sample.group,
        tags=sample.tags | {"parents": [*sample.tags.get("parents", []), sample_id(sample)], "rejected_by": "base"},
    )  # fmt: skip


def agrees(one: str, other: str, reading: Reading) -> bool:
    """Two answers that both decline, or hold the same figures and much the same words."""
    if reading.declines(one) or reading.declines(other):
        return reading.declines(one) and reading.declines(other)
    left, right = ({number for number, _ in figures(reading.fold(text))} for text in (one, other))
    if left and not left <= right:
        return False
    words = set(content_of(one))
    holds = len(words & set(content_of(other))) / len(words) if words else 0.0
    return (bool(left) and holds >= ALIKE) or holds >= 0.9 or rouge_l(tokens_of(one), tokens_of(other)) >= 0.8
