"""Further metrics beside the verdict: means, corpus scores and scores of classes, each with its paired test."""

from __future__ import annotations

import random

import pytest
from bilingual import text, twin

from danlu.evaluation.confusion import Confusion
from danlu.evaluation.items import Item
from danlu.evaluation.measures import classes_beside, corpus_beside, means_beside, score_beside
from danlu.evaluation.tasks.task import Result

sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed (extra eval)")

NAMES = ("char_f1", "rouge_l")


def asked(num: int = 60) -> tuple[list[Item], list[Result], list[Result]]:
    """Items in documents of five; tuned answers like the reference, base at random."""
    dice = random.Random(8)
    items = [Item(str(i), (), text(dice, length=15) or "x", document=f"d{i // 5}") for i in range(num)]
    sides = []
    for answer in (lambda item: text(dice, length=15), lambda item: twin(dice, item.reference)):
        results = []
        for item in items:
            said = answer(item)
            results.append(Result(item.id, 0.0, False, (said,), {"metrics": score_beside(said, item, NAMES)}))
        sides.append(results)
    return items, sides[0], sides[1]


def test_means_are_those_of_the_items_and_tested_by_document() -> None:
    items, base, tuned = asked()
    told = means_beside(items, base, tuned, NAMES)
    assert set(told) == set(NAMES)
    for name in NAMES:
        assert told[name]["tuned"] == pytest.approx(sum(r.details["metrics"][name] for r in tuned) / len(tuned))
        difference = told[name]["difference"]
        assert difference["direction"] == "better" and difference["num_groups"] == 12
        assert difference["value"] == pytest.approx(told[name]["tuned"] - told[name]["base"])
    same = means_beside(items, base, base, NAMES)["rouge_l"]["difference"]
    assert (same["value"], same["p"], same["direction"]) == (0.0, 1.0, "no_evidence")


def test_corpus_scores_are_the_librarys_with_signature_and_a_clustered_test() -> None:
    items, base, tuned = asked()
    told = corpus_beside(items, base, tuned, ("bleu", "chrf", "rouge_l"))
    assert set(told) == {"bleu", "chrf"}, "ROUGE is a mean of items, no corpus score"
    wanted = sacrebleu.BLEU(tokenize="zh").corpus_score(
        [r.answers[0] for r in tuned], [[item.reference for item in items]]
    )
    assert told["bleu"]["tuned"] == pytest.approx(wanted.score)
    assert told["bleu"]["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp|version:")
    assert told["bleu"]["difference"]["test"] == "cluster-randomisation"
    assert told["chrf"]["difference"]["direction"] == "better"


def test_a_row_that_asks_for_bleu_gets_the_corpus_score_of_such_rows() -> None:
    items, base, tuned = asked(20)
    for results in (base, tuned):
        for result in results[:8]:
            result.details["metric"] = "bleu"
    told = corpus_beside(items, base, tuned, ())
    assert set(told) == {"bleu"} and told["bleu"]["difference"]["num_items"] == 8


def test_a_failed_answer_is_an_empty_one() -> None:
    items, _, tuned = asked(10)
    failed = [Result(item.id, 0.0, False, (), {"error": "timeout"}) for item in items]
    told = means_beside(items, failed, tuned, NAMES)
    assert told["rouge_l"]["base"] == 0.0
    assert corpus_beside(items, failed, tuned, ("bleu",))["bleu"]["base"] == 0.0


def test_scores_of_classes_count_parse_failures_and_are_tested() -> None:
    dice = random.Random(2)
    true = [dice.choice(["好评", "差评", "中评"]) for _ in range(80)]
    items = [Item(str(i), (), name, labels=("好评", "差评", "中评")) for i, name in enumerate(true)]

    def side(skill: float) -> list[Result]:
        named = [name if dice.random() < skill else dice.choice(["好评", "差评", ""]) for name in true]
        return [
            Result(str(i), 0.0, False, (), {"label": name} if name else {"parse_failure": True})
            for i, name in enumerate(named)
        ]

    base, tuned = side(0.2), side(0.9)
    told = classes_beside(items, base, tuned)
    confusion = Confusion.of(true, [str(r.details.get("label", "")) for r in tuned])
    for score in ("macro_f1", "micro_f1", "mcc"):
        assert told[score]["tuned"] == pytest.approx(confusion.score(score))
        assert told[score]["difference"]["direction"] == "better"
    assert classes_beside([Item("1", (), "x")], base[:1], tuned[:1]) == {}
    shown = confusion.to_json()
    assert shown["num_parse_failures"] == sum("parse_failure" in r.details for r in tuned) > 0
    assert sum(sum(row.values()) for row in shown["confusion"].values()) == 80
