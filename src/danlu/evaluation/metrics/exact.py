"""Exact match after folding: width, case, punctuation, spaces and number notation do not matter, words do."""

from __future__ import annotations

from danlu.evaluation.fold import final_answer, fold
from danlu.evaluation.items import Item
from danlu.evaluation.metrics.metric import Verdict


class Exact:
    name = "exact"

    def score(self, answer_text: str, item: Item) -> Verdict:
        answer = fold(final_answer(answer_text))
        matched = next((text for text in (item.reference, *item.accept) if fold(text) == answer), None)
        right = matched is not None and bool(answer)
        return Verdict(float(right), right, {"matched": matched} if right else {})
