"""Other wordings of questions that were made: same answer, same evidence, same group."""

from __future__ import annotations

from collections.abc import Sequence

from danlu.data.identity import sample_id
from danlu.data.language import language_of
from danlu.data.sample import Conversation, Message, replace
from danlu.data.synthesis.facts import Fault
from danlu.data.synthesis.prompts import messages, told
from danlu.data.synthesis.replies import parse_object, texts_at
from danlu.data.synthesis.teacher import Ask, Clearance
from danlu.data.synthesis.wording import fault_of_wording
from danlu.data.synthesis.words import Reading


def ask_wordings(question: str, num: int, clearance: Clearance, *, temperature: float, seed: int) -> Ask:
    language = language_of(question)
    user = told(language, "paraphrase_wanted", count=num, question=question)
    return Ask(messages(told(language, "paraphrase"), user), clearance, 120 + 160 * num, temperature, seed)


def read_wordings(reply: str) -> list[str] | None:
    """The wordings in a reply; None when it holds none."""
    said = parse_object(reply)
    return texts_at(said, "questions", "texts", "paraphrases", "items") or None if said is not None else None


def check_wordings(
    question: str, wordings: Sequence[str], num: int, reading: Reading
) -> tuple[list[str], list[tuple[str, Fault]]]:
    """At most `num` sound wordings that also differ from each other, and the refused ones with their faults."""
    sound: list[str] = []
    refused: list[tuple[str, Fault]] = []
    for wording in wordings[: 4 * num]:
        fault = fault_of_wording(question, wording, reading)
        if fault is None and any(reading.fold(wording) == reading.fold(kept) for kept in sound):
            fault = Fault("same_wording", {})
        if fault is not None:
            refused.append((wording, fault))
        elif len(sound) < num:
            sound.append(wording)
    return sound, refused


def with_question(sample: Conversation, wording: str) -> Conversation:
    """The same conversation opened in other words."""
    opening = Message("user", wording)
    tags = sample.tags | {"parents": [*sample.tags["parents"], sample_id(sample)], "paraphrase": True}
    return replace(sample, messages=(opening, *sample.messages[1:]), tags=tags)
