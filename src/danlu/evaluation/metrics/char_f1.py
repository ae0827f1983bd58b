"""Overlap with the reference: F1 over Chinese characters and Latin words, the best of the accepted references.

An answer counts as right when it overlaps by 0.6 or more and carries every number of the reference: a fluent sentence
with the wrong amount is wrong. What it does not see: a "not" more or less, and who did what to whom.
"""

from __future__ import annotations

from danlu.evaluation.fold import final_answer, fold, numbers, overlap_f1
from danlu.evaluation.items import Item
from danlu.evaluation.metrics.metric import Verdict

RIGHT_FROM = 0.6


class CharF1:
    name = "char_f1"

    def score(self, answer_text: str, item: Item) -> Verdict:
        answer = fold(final_answer(answer_text))
        references = [fold(text) for text in (item.reference, *item.accept)]
        best = max(references, key=lambda reference: overlap_f1(answer, reference))
        value = overlap_f1(answer, best)
        missing = sorted(numbers(best) - numbers(answer))
        details = {"missing_numbers": missing} if missing else {}
        return Verdict(value, value >= RIGHT_FROM and not missing, details)
