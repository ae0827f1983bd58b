"""Prefix: the answer begins with the value or an accepted variant (yes-no questions)."""

from __future__ import annotations

from danlu.evaluation.fold import final_answer, fold
from danlu.evaluation.items import Item
from danlu.evaluation.metrics.metric import Verdict


class Prefix:
    name = "prefix"

    def score(self, answer_text: str, item: Item) -> Verdict:
        answer = fold(final_answer(answer_text))
        wanted = (*(item.values or (item.reference,)), *item.accept)
        matched = next((text for text in wanted if (start := fold(text)) and answer[: len(start)] == start), None)
        return Verdict(float(matched is not None), matched is not None, {"matched": [matched]} if matched else {})
