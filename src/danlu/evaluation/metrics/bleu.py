"""BLEU and chrF by sacreBLEU (Post 2018; Popović 2015), of single answers and of the corpus.

A single answer's score (0 to 1) is only for reading and for pairing; what is reported is the corpus' score (0 to 100)
with sacreBLEU's own signature. Chinese is cut by `tokenize="zh"` as soon as one reference holds a Chinese character
(the default 13a takes a whole Chinese sentence for one word); everything else by 13a. An answer counts as right from
0.5 on, or from the item's `rules: {"right_from": 0.3}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.core.errors import EvaluationError
from danlu.evaluation.fold import final_answer, is_chinese
from danlu.evaluation.items import Item
from danlu.evaluation.metrics.metric import Corpus, Verdict, right_from
from danlu.evaluation.stats import Tally

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric as Scorer

    from danlu.evaluation.stats.groups import Floats


class _SacreBleu:
    name = ""

    def score(self, answer_text: str, item: Item) -> Verdict:
        scorer = self.scorer([item], single=True)
        value = scorer.sentence_score(final_answer(answer_text), _references(item)).score / 100
        return Verdict(min(1.0, value), value >= right_from(item))

    def corpus(self, answer_texts: Sequence[str], items: Sequence[Item]) -> Corpus:
        scorer = self.scorer(items, single=False)
        answers = [final_answer(text) for text in answer_texts]
        most = max(len(_references(item)) for item in items)
        # sacreBLEU wants the first references of all, then the second ones; None where an item has fewer
        references: list[list[Any]] = [
            [(*_references(item), *[None] * most)[place] for item in items] for place in range(most)
        ]
        rows = np.asarray(scorer._extract_corpus_statistics(answers, references), dtype=np.float64)

        def value(sums_RK: Floats) -> Floats:
            sums = np.rint(sums_RK).astype(np.int64)
            return np.asarray([scorer._compute_score_from_stats(row).score for row in sums.tolist()], dtype=np.float64)

        return Corpus(Tally(rows, value), str(scorer.get_signature()))

    def scorer(self, items: Sequence[Item], *, single: bool) -> Scorer:
        raise NotImplementedError


class Bleu(_SacreBleu):
    name = "bleu"

    def scorer(self, items: Sequence[Item], *, single: bool) -> Scorer:
        has_chinese = any(is_chinese(text) for item in items for text in _references(item))
        scorer: Scorer = _library(items).BLEU(tokenize="zh" if has_chinese else "13a", effective_order=single)
        return scorer


class Chrf(_SacreBleu):
    name = "chrf"

    def scorer(self, items: Sequence[Item], *, single: bool) -> Scorer:
        scorer: Scorer = _library(items).CHRF()
        return scorer


def _references(item: Item) -> tuple[str, ...]:
    return (item.reference, *item.accept)


def _library(items: Sequence[Item]) -> Any:
    try:
        from sacrebleu import metrics  # only corpora that ask for it need it
    except ImportError as error:
        raise EvaluationError("evaluation.needs_extra", where=f"item {items[0].id}", given="sacrebleu") from error
    return metrics
