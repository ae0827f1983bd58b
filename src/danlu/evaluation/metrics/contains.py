"""Contains: the value, or any accepted variant of it, stands in the answer as itself ("80元" is not in "180元").

An item with several values needs all of them. What it does not see: an answer that names the right value among wrong
ones. Such numbers are listed in the details as `other_numbers`, for the reader.
"""

from __future__ import annotations

from danlu.evaluation.fold import final_answer, find, fold, numbers
from danlu.evaluation.items import Item
from danlu.evaluation.metrics.metric import Verdict


class Contains:
    name = "contains"

    def score(self, answer_text: str, item: Item) -> Verdict:
        answer = fold(final_answer(answer_text))
        wanted = item.values or (item.reference,)
        found = [text for text in wanted if find(fold(text), answer) >= 0]
        variant = next((text for text in item.accept if find(fold(text), answer) >= 0), None)
        right = variant is not None or len(found) == len(wanted)
        known = numbers(fold(item.reference)) | numbers(fold(item.text))
        for text in (*wanted, *item.accept):
            known |= numbers(fold(text))
        details: dict[str, object] = {"matched": [variant] if variant is not None else found}
        if others := sorted(numbers(answer) - known):
            details["other_numbers"] = others
        return Verdict(1.0 if right else len(found) / len(wanted), right, details)
