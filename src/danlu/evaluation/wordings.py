"""One question in several wordings, or asked several times: what its answers come to together.

consistent_right: right every time. consistent_wrong: wrong every time, in the same way. inconsistent: all else.
Only the first is "consistent": three equal wrong answers are no virtue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from danlu.evaluation.fold import agree, fold
from danlu.evaluation.items import Item

CLASSES = ("consistent_right", "consistent_wrong", "inconsistent")


def wordings_of(items: Sequence[Item]) -> list[list[Item]]:
    """Items that are the same question in other words: one group, one language, one key; two or more."""
    found: dict[tuple[Any, ...], list[Item]] = {}
    for item in items:
        if item.group and not item.control:
            key = item.group, item.language, fold(item.reference), item.values, item.kind
            found.setdefault(key, []).append(item)
    return [wordings for wordings in found.values() if len(wordings) > 1]


def class_of(rights: Sequence[bool], texts: Sequence[str]) -> str:
    """One of CLASSES, for the answers to one question."""
    if all(rights):
        return "consistent_right"
    return "consistent_wrong" if not any(rights) and agree(texts) else "inconsistent"


def shares(classes: Sequence[str]) -> dict[str, Any]:
    """Share of each class, and of how many questions."""
    counts = Counter(classes)
    return {name: counts[name] / max(1, len(classes)) for name in CLASSES} | {"num_items": len(classes)}
