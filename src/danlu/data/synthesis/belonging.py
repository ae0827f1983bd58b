"""Whether a figure belongs to what an answer says it belongs to. "Marriage leave is 158 days", out of "marriage leave 5
days, maternity leave 158 days", quotes well and lies.

The clauses of the evidence that hold a figure of the same unit are held against each other. What only the figure's own
clause says must be spoken of, when what only another clause says is. Clauses that differ in nothing decide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from danlu.data.synthesis.facts import Fault, figures
from danlu.data.synthesis.words import Reading, content_of

_CLAUSE_END = re.compile(r"[，。；！？,;!?\n]+|(?<=[a-z])\.\s|\band\b|(?<=[^\d])、|(?<=[天元年月日次人岁])[和与及]")

_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b")


@dataclass(frozen=True, slots=True)
class _Clause:
    figures: frozenset[tuple[str, str]]
    words: frozenset[str]
    names: frozenset[str]

    def says(self, number: str) -> bool:
        return any(number == known for known, _ in self.figures)


def fault_of_belonging(question: str, answer: str, evidence: str, reading: Reading) -> Fault | None:
    """A figure of the answer that stands in the evidence, but with something else."""
    known = _clauses(evidence, reading)
    asked = _words(question, reading)
    for clause in _clauses(answer, reading):
        spoken = clause.words if len(clause.words) > 2 else clause.words | asked
        for number, unit in sorted(clause.figures):
            own = [one for one in known if one.says(number)]
            others = [one for one in known if not one.says(number) and any(unit == theirs for _, theirs in one.figures)]
            if unit and own and others and all(_is_another_s(mine, others, spoken, number, unit) for mine in own):
                return Fault("figure_elsewhere", {"given": f"{number} {unit}"})
            if unit and own and others and all(_is_named_otherwise(mine, others, question, answer) for mine in own):
                return Fault("figure_elsewhere", {"given": f"{number} {unit}"})
    return None


def _is_named_otherwise(own: _Clause, others: Sequence[_Clause], question: str, answer: str) -> bool:
    """150 euros "in Berlin", where the question or the answer says Hamburg, of which another clause speaks."""
    asked = _names(f"{question}\n{answer}")
    return bool(own.names) and not own.names & asked and any((other.names - own.names) & asked for other in others)


def _names(text: str) -> frozenset[str]:
    """Latin words with a capital that begin no sentence."""
    return frozenset(found[0] for found in _NAME.finditer(text))


def _is_another_s(own: _Clause, others: Sequence[_Clause], spoken: frozenset[str], number: str, unit: str) -> bool:
    mark = f"{number} {unit}"
    for other in others:
        mine, theirs = own.words - other.words - {mark}, other.words - own.words
        if mine and not mine & spoken and (theirs & spoken) - {mark}:
            return True
    return False


def _clauses(text: str, reading: Reading) -> list[_Clause]:
    found = []
    for part in _CLAUSE_END.split(text):
        if part and part.strip():
            told = frozenset(figures(reading.fold(part)))
            found.append(_Clause(told, _words(part, reading), _names(part)))
    return found


def _words(text: str, reading: Reading) -> frozenset[str]:
    """Content words, and figures as one word each."""
    told = {f"{number} {unit}" for number, unit in figures(reading.fold(text)) if unit}
    return frozenset(content_of(text)) | told
