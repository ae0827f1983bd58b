"""ROUGE: overlap with the best of the accepted references, F1 of 1-grams, 2-grams or the longest common subsequence.

The mean of the items' values is the corpus' ROUGE. An item counts as right from 0.5 on, or from the item's
`rules: {"right_from": 0.3}`: a threshold, not a truth; the paired test of the values does without it.
"""

from __future__ import annotations

from collections.abc import Sequence

from danlu.evaluation.fold import final_answer
from danlu.evaluation.items import Item
from danlu.evaluation.metrics.metric import Verdict, right_from
from danlu.evaluation.rouge import Overlap, best, rouge_l, rouge_n, words_of


class _Rouge:
    name = ""

    def score(self, answer_text: str, item: Item) -> Verdict:
        answer = words_of(final_answer(answer_text))
        found = best([self.overlap(answer, words_of(text)) for text in (item.reference, *item.accept)])
        details = {"precision": round(found.precision, 6), "recall": round(found.recall, 6)}
        return Verdict(found.f1, found.f1 >= right_from(item), details)

    def overlap(self, answer: Sequence[str], reference: Sequence[str]) -> Overlap:
        raise NotImplementedError


class Rouge1(_Rouge):
    name = "rouge_1"

    def overlap(self, answer: Sequence[str], reference: Sequence[str]) -> Overlap:
        return rouge_n(answer, reference, 1)


class Rouge2(_Rouge):
    name = "rouge_2"

    def overlap(self, answer: Sequence[str], reference: Sequence[str]) -> Overlap:
        return rouge_n(answer, reference, 2)


class RougeL(_Rouge):
    name = "rouge_l"

    def overlap(self, answer: Sequence[str], reference: Sequence[str]) -> Overlap:
        return rouge_l(answer, reference)
