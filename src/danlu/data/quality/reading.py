"""A sample as the report reads it: what is asked, what is answered."""

from __future__ import annotations

from danlu.data.sample import Document, Label, Message, Preference, Sample
from danlu.data.texts import answer_at


def asked_and_answered(sample: Sample) -> tuple[str, str]:
    """What stands before the last answer, and that answer; a document has no prompt, of a pair the chosen counts."""
    match sample:
        case Document():
            return sample.title, sample.text
        case Label():
            return sample.text, sample.label
        case Preference():
            return _said(sample.prompt), _said(sample.chosen)
    turns = sample.messages
    last = answer_at(turns)
    return _said(turns[:last]), _said(turns[last : last + 1])


def _said(turns: tuple[Message, ...]) -> str:
    if len(turns) == 1:
        return turns[0].content or _calls(turns[0])
    return "\n".join(f"[{turn.role}] {turn.content or _calls(turn)}" for turn in turns)


def _calls(turn: Message) -> str:
    return " ".join(str(call) for call in turn.tool_calls)
