"""Questions that training has seen are not asked: a twin in the training data makes any score worthless."""

from __future__ import annotations

from collections.abc import Sequence

from danlu.core.files import sha256_bytes
from danlu.data.sample import Document, Label, Preference, Sample
from danlu.data.split import fold
from danlu.run.run import Run


def without_leaks(samples: Sequence[Sample], run: Run) -> tuple[list[Sample], int]:
    """Samples whose question (the last one of a conversation), folded (width, case, punctuation, spaces), is no
    training prompt; and how many are."""
    seen = set(run.read("dataset", "prompts.json"))
    kept = [sample for sample in samples if not (turns := asked(sample)) or fold_digest(turns[-1]) not in seen]
    return kept, len(samples) - len(kept)


def fold_digest(text: str) -> str:
    """A short name for a folded text."""
    return sha256_bytes(fold(text).encode())[:16]


def asked(sample: Sample) -> list[str]:
    """What a sample asks: each of the user's turns, or the text to judge; a document asks nothing."""
    match sample:
        case Document():
            return []
        case Label():
            return [sample.text]
        case Preference():
            turns = sample.prompt
        case _:
            turns = sample.messages
    return [turn.content for turn in turns if turn.role == "user"]
