"""Small word lists of the checks, read from `assets/synthesis/lexicon.json`; written for danlu, CC0."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import orjson

_LISTS: dict[str, Any] = orjson.loads(
    resources.files("danlu.assets").joinpath("synthesis", "lexicon.json").read_bytes()
)

FUNCTION_CHARACTERS = frozenset(_LISTS["function_characters"])
"""Characters that say little about what a Chinese sentence is about; numbers are judged apart."""
FUNCTION_WORDS = frozenset(_LISTS["function_words"].split())
SURNAMES = frozenset(_LISTS["surnames"])
ARTICLES = frozenset(_LISTS["articles"])
"""What "一" before is an article, not a figure."""
CHINESE_NOT: tuple[str, ...] = tuple(_LISTS["chinese_not"])
"""Longer ones first."""
OPPOSITES: tuple[tuple[str, str], ...] = tuple((one, other) for one, other in _LISTS["opposites"])
"""Pairs of patterns that may not take each other's place."""
ALIKE: tuple[frozenset[str], ...] = tuple(frozenset(words.split()) for words in _LISTS["alike"])
"""Names of one party or thing."""
SWAPPED: frozenset[tuple[str, str]] = frozenset(
    pair for one, other in _LISTS["swapped"] for pair in ((one, other), (other, one))
)
"""Words, no nouns perhaps, that may not stand in each other's place within one sentence."""
FILLERS = {language: frozenset(words.split()) for language, words in _LISTS["fillers"].items()}
"""What can go without a question asking something else."""
ADVERBS = {language: frozenset(words.split()) for language, words in _LISTS["adverbs"].items()}
"""What may change places with its neighbour."""
UNITS: dict[tuple[str, ...], str] = {
    tuple(re.findall("[\u3400-\u9fff]|[^\\s\u3400-\u9fff]+", written)): name
    for name, spellings in _LISTS["units"].items()
    for written in spellings
}
"""Folded tokens of a unit to what it counts as: (小, 时) and (hour,) are one."""
