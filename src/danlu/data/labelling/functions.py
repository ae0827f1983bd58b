"""Labelling functions: small rules that vote for a class or keep silent, in the manner of Snorkel (Ratner et al. 2017).

Written by people who know the field, as YAML, no code: words or a pattern, words that forbid it, a class.

    - {name: praise, label: positive, words: [好吃, 不错], unless: [不好吃]}
    - {name: late,   label: negative, pattern: "等了?.{0,4}(小时|钟头)"}

How good each one is follows from how they agree (`label_model.py`); nobody has to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from danlu.core.errors import DataError
from danlu.core.messages import listed
from danlu.data.labelling.label_model import ABSTAIN, Consensus, Votes, agree

_KEYS = {"name", "label", "words", "pattern", "unless", "longer_than", "shorter_than"}
_MOST_CHARS = 4000
"""Of a text; what a rule looks for stands near its beginning, and patterns stay quick."""


@dataclass(frozen=True, slots=True)
class LabelFunction:
    """Votes `label` where one of `words` or `pattern` is found, none of `unless` is, and the length fits."""

    name: str
    label: str
    words: tuple[str, ...] = ()
    pattern: str = ""
    unless: tuple[str, ...] = ()
    longer_than: int = -1
    shorter_than: int = 1 << 40

    def votes(self, text: str) -> bool:
        seen = text[:_MOST_CHARS].casefold()
        if not self.longer_than < len(text) < self.shorter_than or any(word.casefold() in seen for word in self.unless):
            return False
        if not self.words and not self.pattern:
            return True
        if any(word.casefold() in seen for word in self.words):
            return True
        return bool(self.pattern and re.search(self.pattern, seen, re.IGNORECASE))


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """One function over a set of rows: shares of rows it votes on, where another agrees to vote, where one contradicts;
    `accuracy` as the label model estimates it."""

    name: str
    label: str
    coverage: float
    overlap: float
    conflict: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class WeakLabels:
    """`labels[i]` is None where no function voted; `sureness[i]` the probability of the label that was chosen."""

    classes: tuple[str, ...]
    labels: tuple[str | None, ...]
    sureness: tuple[float, ...]
    facts: tuple[FunctionFacts, ...]
    consensus: Consensus


def load_functions(value: Any, where: str) -> list[LabelFunction]:
    """Functions out of parsed YAML or JSON; DataError names the entry that is wrong."""
    entries = value.get("functions") if isinstance(value, Mapping) else value
    if not isinstance(entries, list) or not entries:
        raise DataError("select.no_functions", where=where)
    found = [_function(entry, f"{where}:{place}") for place, entry in enumerate(entries, start=1)]
    if len({function.name for function in found}) < len(found):
        raise DataError("select.bad_function", where=where, detail="two functions of one name")
    return found


def apply_functions(functions: Sequence[LabelFunction], texts: Sequence[str]) -> WeakLabels:
    """Let all functions vote on all texts and weigh their votes."""
    classes = tuple(sorted({function.label for function in functions}))
    places = [classes.index(function.label) for function in functions]
    votes = np.full((len(texts), len(functions)), ABSTAIN, np.int64)
    for row, text in enumerate(texts):
        for column, function in enumerate(functions):
            if function.votes(text):
                votes[row, column] = places[column]
    consensus = agree(votes, len(classes), silence_tells=True)
    best = consensus.probabilities.argmax(axis=1)
    has_votes = (votes != ABSTAIN).any(axis=1)
    labels = tuple(classes[int(place)] if voted else None for place, voted in zip(best, has_votes, strict=True))
    sureness = tuple(
        round(float(consensus.probabilities[row, place]), 4) if has_votes[row] else 0.0
        for row, place in enumerate(best)
    )
    return WeakLabels(classes, labels, sureness, tuple(_facts(functions, votes, places, consensus)), consensus)


def _facts(
    functions: Sequence[LabelFunction], votes: Votes, places: Sequence[int], consensus: Consensus
) -> list[FunctionFacts]:
    """Accuracy: how often the label model says the function's class where the function does."""
    facts = []
    num_rows = max(1, len(votes))
    for column, function in enumerate(functions):
        voted = votes[:, column] != ABSTAIN
        others = np.delete(votes, column, axis=1)
        overlap = voted & (others != ABSTAIN).any(axis=1)
        conflict = voted & ((others != ABSTAIN) & (others != places[column])).any(axis=1)
        right = float(consensus.probabilities[voted, places[column]].mean()) if voted.any() else 0.0
        shares = (voted.sum() / num_rows, overlap.sum() / num_rows, conflict.sum() / num_rows, right)
        facts.append(FunctionFacts(function.name, function.label, *(round(float(share), 4) for share in shares)))
    return facts


def _function(entry: Any, where: str) -> LabelFunction:
    if not isinstance(entry, Mapping) or not entry.get("name") or entry.get("label") in (None, ""):
        raise DataError("select.bad_function", where=where, detail="name, label")
    if unknown := set(entry) - _KEYS:
        raise DataError("select.bad_function", where=where, detail=listed(sorted(map(str, unknown))))
    pattern = str(entry.get("pattern") or "")
    try:
        re.compile(pattern)
    except re.error as error:
        raise DataError("select.bad_function", where=where, detail=f"pattern: {error}") from error
    limits = {name: entry[name] for name in ("longer_than", "shorter_than") if name in entry}
    if not all(isinstance(limit, int) for limit in limits.values()):
        raise DataError("select.bad_function", where=where, detail="longer_than, shorter_than")
    return LabelFunction(
        str(entry["name"]), str(entry["label"]), _words(entry, "words", where), pattern,
        _words(entry, "unless", where), **limits,
    )  # fmt: skip


def _words(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    words = entry.get(key) or []
    words = [words] if isinstance(words, str) else words
    if not isinstance(words, list) or not all(isinstance(word, str | int | float) and str(word) for word in words):
        raise DataError("select.bad_function", where=where, detail=key)
    return tuple(map(str, words))
