"""Our ROUGE beside Google's, given our tokens, on random Chinese and English; and beside its own known answers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from bilingual import pairs, text, twin

from danlu.evaluation.items import Item, load_questions
from danlu.evaluation.metrics import METRICS
from danlu.evaluation.rouge import Overlap, best, rouge_l, rouge_lsum, rouge_n, words_of

rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed (extra test)")

KNOWN = Path(__file__).parents[3].parent / "shared" / "data" / "eval" / "metric_known_answers.jsonl"
CASES = 800


class OurTokens:
    """rouge-score asks a tokenizer for its tokens."""

    def tokenize(self, line: str) -> list[str]:
        return words_of(line)


def measured(name: str, answer: str, reference: str) -> Overlap:
    if name == "rougeLsum":
        return rouge_lsum(*([words_of(line) for line in side.split("\n") if line] for side in (answer, reference)))
    said, wanted = words_of(answer), words_of(reference)
    return rouge_l(said, wanted) if name == "rougeL" else rouge_n(said, wanted, int(name[-1]))


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_is_googles_given_the_same_tokens(name: str) -> None:
    oracle = rouge_scorer.RougeScorer([name], tokenizer=OurTokens())
    num_overlapping = 0
    for answer, reference in pairs(CASES, seed=17):
        wanted, got = oracle.score(reference, answer)[name], measured(name, answer, reference)
        assert (got.precision, got.recall, got.f1) == pytest.approx(tuple(wanted), abs=1e-9), (answer, reference)
        num_overlapping += 0 < got.f1 < 1
    assert num_overlapping > CASES / 3, "the cases must not be trivial"


def test_several_references_count_by_the_best_as_googles_do() -> None:
    oracle = rouge_scorer.RougeScorer(["rougeL"], tokenizer=OurTokens())
    dice = random.Random(3)
    metric = METRICS.load("rouge_l")()
    for _ in range(200):
        reference = text(dice, length=12)
        others = [twin(dice, reference), text(dice, length=8)]
        answer = twin(dice, reference)
        item = load_questions([{"question": "?", "answer": reference or "x", "accept": others}]).items[0]
        wanted = oracle.score_multi([item.reference, *item.accept], answer)["rougeL"]
        assert metric.score(answer, item).value == pytest.approx(wanted.fmeasure, abs=1e-9)


def test_known_answers_of_rouge_score() -> None:
    if not KNOWN.is_file():
        pytest.skip(f"{KNOWN} is not here")
    rows = [row for row in map(json.loads, KNOWN.read_text("utf-8").splitlines()) if row["metric"].startswith("rouge")]
    assert len(rows) == 8
    for row in rows:
        got = measured(row["metric"], row["prediction"], row["target"])
        wanted = (row["precision"], row["recall"], row["f"])
        assert (got.precision, got.recall, got.f1) == pytest.approx(wanted, abs=row["tol"]), row


def test_chinese_is_counted_by_characters_and_not_dropped() -> None:
    """rouge-score's own tokenizer keeps [a-z0-9] only: two different Chinese sentences score 0, and so do two equal ones."""
    stock = rouge_scorer.RougeScorer(["rouge1"])
    assert stock.score("年假七天", "年假七天")["rouge1"].fmeasure == 0
    assert rouge_n(words_of("年假七天"), words_of("年假七天。"), 1).f1 == 1
    assert words_of("出差Travel补贴８０元，A4！") == ["出", "差", "travel", "补", "贴", "80", "元", "a4"]


def test_the_mean_of_items_is_the_corpus_and_right_has_a_threshold() -> None:
    item = Item("1", (), "the cat sat on the mat")
    strict = Item("2", (), "the cat sat on the mat", rules={"right_from": 0.9})
    metric = METRICS.load("rouge_1")()
    verdict = metric.score("the cat sat", item)
    assert verdict.value == pytest.approx(2 / 3) and verdict.right
    assert not metric.score("the cat sat", strict).right
    assert metric.score("", item).value == 0.0
    assert best([Overlap(0.1, 0.2), Overlap(0.9, 0.1), Overlap(0.4, 0.4)]) == Overlap(0.4, 0.4)
