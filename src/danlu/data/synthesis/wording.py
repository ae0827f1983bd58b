"""Whether another wording says the same: numbers, names, negations and language are compared, by rules.

Used for paraphrased questions and for every augmented sample: whatever touches a fact is no paraphrase.
"""

from __future__ import annotations

import re

from danlu.data.language import language_of
from danlu.data.synthesis.facts import Fault, fault_of_names, fault_of_negation, figures
from danlu.data.synthesis.lexicon import CHINESE_NOT
from danlu.data.synthesis.words import Reading, content_of, rouge_l, tokens_of

MAX_ALIKE = 0.95
MIN_SHARED = 0.2
"""Of the original's content words; other words may well be synonyms, none at all is another text."""
_NOT = re.compile(
    "|".join([*map(re.escape, CHINESE_NOT), "(?<![特分区差级性类告识])别(?![的人名处墅])", "勿", "非(?![常洲])"])
)
_NOT_ENGLISH = re.compile(r"\b(?:not|no|never|none|cannot|without|neither|nor|[a-z]+n['’]t)\b", re.IGNORECASE)


def fault_of_wording(original: str, other: str, reading: Reading) -> Fault | None:
    """Why `other` cannot stand in for `original`; None when nothing speaks against it."""
    if language_of(other) != language_of(original):
        return Fault("language", {"given": language_of(other)})
    one, two = tokens_of(original), tokens_of(other)
    if one == two or rouge_l(one, two, at_least=MAX_ALIKE) >= MAX_ALIKE:
        return Fault("same_wording", {})
    if not 0.34 <= (len(two) + 1) / (len(one) + 1) <= 3:
        return Fault("length", {"given": f"{len(one)}/{len(two)}"})
    had, has = set(figures(reading.fold(original))), set(figures(reading.fold(other)))
    if {number for number, _ in had} != {number for number, _ in has}:
        return Fault("figure", {"given": ", ".join(sorted(number for number, _ in had ^ has))[:60]})
    units, other_units = {unit for _, unit in had} - {""}, {unit for _, unit in has} - {""}
    if units != other_units:
        return Fault("unit", {"given": ", ".join(sorted(units ^ other_units)), "found": ", ".join(sorted(units))})
    for text, source in ((other, original), (original, other)):
        if fault := fault_of_names(text, source):
            return fault
    if num_negations(original) != num_negations(other):
        return Fault("negation", {"given": f"{num_negations(original)}/{num_negations(other)}"})
    if fault := fault_of_negation(other, original):
        return fault
    shared = set(content_of(original)) & set(content_of(other))
    if len(shared) < MIN_SHARED * len(set(content_of(original))):
        return Fault("unsupported", {"given": other[:60]})
    return None


def num_negations(text: str) -> int:
    return len(_NOT.findall(text)) + len(_NOT_ENGLISH.findall(text))
