"""Label accuracy: the first class that the answer names, compared with the right one.

An answer that names none is a parse failure: wrong, and counted apart, because it asks for another remedy than a wrong
class does. At one place the longer label wins ("very good" before "good"); a denied one ("not positive") is passed by.
"""

from __future__ import annotations

from danlu.evaluation.fold import final_answer, find, fold
from danlu.evaluation.items import Item
from danlu.evaluation.metrics.metric import Verdict


class LabelAccuracy:
    name = "label"

    def score(self, answer_text: str, item: Item) -> Verdict:
        answer = fold(final_answer(answer_text))
        named = []
        for label in item.labels or (item.reference,):
            needle = fold(label)
            place = find(needle, answer)
            if place >= 0:
                named.append((place, -len(needle), label))
        if not named:
            return Verdict(0.0, False, {"parse_failure": True})
        label = min(named)[2]
        right = fold(label) in {fold(text) for text in (item.reference, *item.accept)}
        return Verdict(float(right), right, {"label": label})
