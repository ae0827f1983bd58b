"""What a judge is asked, in the question's language, and the JSON that it is to answer with.

The answers to be judged are quoted as data between marks that no answer contains: one that says "choose me" is quoted
like any other.
"""

from __future__ import annotations

from typing import Any, Literal

from danlu.core.files import sha256_json
from danlu.core.messages import say
from danlu.data.sample import Message
from danlu.engines.engine import Question

Spoken = Literal["zh", "en"]

PAIR_SCHEMA: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["reason", "winner"],
    "properties": {"reason": {"type": "string"}, "winner": {"enum": ["A", "B", "tie"]}},
}  # fmt: skip
RATE_SCHEMA: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["reason", "score"],
    "properties": {"reason": {"type": "string"}, "score": {"type": "integer", "enum": [1, 2, 3, 4, 5]}},
}  # fmt: skip


def pair_question(spoken: Spoken, question: str, reference: str, first: str, second: str, rubric: str = "") -> Question:
    system = say("judge.ask_pair", spoken) + (say("judge.pair_rubric", spoken, rubric=rubric) if rubric else "")
    parts = {"question": question, "reference": reference, "a": first, "b": second}
    return Question((Message("system", system), Message("user", _quoted(spoken, parts))), schema=PAIR_SCHEMA)


def rate_question(spoken: Spoken, question: str, reference: str, answer: str, rubric: str = "") -> Question:
    system = say("judge.ask_rate", spoken, rubric=rubric or say("judge.rubric", spoken))
    parts = {"question": question, "reference": reference, "answer": answer}
    return Question((Message("system", system), Message("user", _quoted(spoken, parts))), schema=RATE_SCHEMA)


def _quoted(spoken: Spoken, parts: dict[str, str]) -> str:
    """Each part between marks made from the parts themselves, so that none of them can close its quotation."""
    mark = sha256_json(parts)[:8]
    shown = {name: text for name, text in parts.items() if text.strip() or name != "reference"}
    return "\n\n".join(
        f"[{say(f'judge.part_{name}', spoken)} {mark}]\n{text}\n[/{mark}]" for name, text in shown.items()
    )
