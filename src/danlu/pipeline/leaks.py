"""Questions that training has seen are not asked: a twin in the training data makes any score worthless."""

from __future__ import annotations

from collections.abc import Sequence

from danlu.core.files import read_json, sha256_bytes
from danlu.data.sample import Document, Label, Preference, Sample
from danlu.data.split import fold
from danlu.evaluation.items import Item
from danlu.run.run import Run


def without_leaks(items: Sequence[Item], run: Run) -> tuple[tuple[Item, ...], int]:
    """Items whose question, folded (width, case, punctuation, spaces), is no training prompt; and how many are."""
    seen = set(read_json(run.path("dataset", "prompts.json")))
    kept = tuple(item for item in items if fold_digest(item.text) not in seen)
    return kept, len(items) - len(kept)


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
