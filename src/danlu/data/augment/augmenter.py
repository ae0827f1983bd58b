"""The contract of the shelf: texts in, candidates for other wordings out. Whether a candidate is sound is not decided
here but by `varying.py`, with the same rules for all methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from danlu.data.synthesis.teacher import Ask, Clearance, Reply


@dataclass(frozen=True, slots=True)
class Variable:
    """A text that may be worded anew. `protected` is text whose words are left alone: the answer, a label's name."""

    text: str
    protected: str
    clearance: Clearance
    is_question: bool
    """Asked by a user, in contrast to a text that is judged."""
    seed: str
    """Its dice; the same text in the same recipe draws the same."""


class Asking(Protocol):
    """How a method asks its teacher: replies in order. Methods without a teacher never call it."""

    def __call__(self, asks: Sequence[Ask]) -> list[Reply]: ...


class Augmenter(Protocol):
    """`needs_teacher` says whether `vary` calls `asking`."""

    needs_teacher: bool

    def vary(self, variables: Sequence[Variable], copies: int, strength: float, asking: Asking) -> list[list[str]]:
        """Candidates for each text, in order; more than `copies` where some may be unsound; none is fine."""
        ...
