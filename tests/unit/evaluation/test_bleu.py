"""BLEU and chrF: the library's numbers arrive unchanged, whole and from sums; Chinese gets its tokenizer."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from bilingual import pairs, text, twin

from danlu.evaluation.items import Item
from danlu.evaluation.metrics import METRICS, CorpusMetric

sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed (extra eval)")

KNOWN = Path(__file__).parents[3].parent / "shared" / "data" / "eval" / "metric_known_answers.jsonl"


def items_of(references: list[str], others: list[list[str]] | None = None) -> list[Item]:
    extra = others or [[] for _ in references]
    return [
        Item(str(i), (), reference, accept=tuple(more))
        for i, (reference, more) in enumerate(zip(references, extra, strict=True))
    ]


def corpus(name: str, answers: list[str], items: list[Item]):
    metric = METRICS.load(name)()
    assert isinstance(metric, CorpusMetric)
    return metric.corpus(answers, items)


def test_known_answers_of_sacrebleu_through_our_door() -> None:
    """Those with default settings come through our metric; the others test the library that is installed here."""
    if not KNOWN.is_file():
        pytest.skip(f"{KNOWN} is not here")
    rows = [json.loads(line) for line in KNOWN.read_text("utf-8").splitlines()]
    seen = {"ours": 0, "library": 0}
    for row in rows:
        if row["metric"] in ("corpus_bleu", "raw_corpus_bleu") and not row["args"]:
            first, *others = row["refs"]
            items = items_of(first, [list(more) for more in zip(*others, strict=True)] if others else None)
            assert corpus("bleu", row["hyp"], items).tally.total == pytest.approx(row["score"], abs=1e-6)
            seen["ours"] += 1
        elif row["metric"].endswith("corpus_bleu"):
            raw = {"tokenize": "none", "smooth_method": "floor", "use_effective_order": True, "force": True}
            args = (raw if row["metric"].startswith("raw") else {}) | row["args"]
            score = sacrebleu.corpus_bleu(row["hyp"], row["refs"], **args).score
            if row["refs"] == [["ref1", "ref2"]]:
                # Nothing matches at all: the recorded value is floor smoothing by the formula, as sacreBLEU 1 had it;
                # the present one says 0 before it smooths.
                assert (1 / 6 * 1 / 4 * 1 / 2 * 1) ** 0.25 == pytest.approx(row["score"], abs=1e-6)
                assert score == 0
            else:
                assert score == pytest.approx(row["score"], abs=1e-6)
            seen["library"] += 1
        elif row["metric"] == "compute_bleu":
            score = sacrebleu.BLEU.compute_bleu(
                row["correct"], row["total"], row["sys_len"], row["ref_len"], **row.get("args", {})
            ).score
            assert score == pytest.approx(row["score"], abs=1e-6)
            seen["library"] += 1
        elif row["metric"] == "corpus_chrf":
            args = row["args"]
            made = sacrebleu.CHRF(
                args["char_order"], args["word_order"], args["beta"], eps_smoothing=args["eps_smoothing"]
            )
            assert made.corpus_score(row["hyp"], row["refs"]).score == pytest.approx(row["score"], abs=row["tol"])
            seen["library"] += 1
    assert seen == {"ours": 2, "library": 19}


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_the_corpus_from_sums_is_the_librarys(name: str) -> None:
    """50 corpora, 1,000 random pairs, with and without second references."""
    dice = random.Random(5)
    for number in range(50):
        drawn = list(pairs(20, seed=number))
        answers, references = [answer for answer, _ in drawn], [reference for _, reference in drawn]
        others = [[twin(dice, reference)] if number % 2 else [] for reference in references]
        streams = [references] + ([[more[0] for more in others]] if number % 2 else [])
        made = corpus(name, answers, items_of(references, others))
        library = sacrebleu.BLEU(tokenize="zh") if name == "bleu" else sacrebleu.CHRF()
        assert made.tally.total == pytest.approx(library.corpus_score(answers, streams).score, abs=1e-9)
        assert made.signature == str(library.get_signature())


def test_any_redraw_of_the_sums_is_the_score_of_that_corpus() -> None:
    """What the bootstrap and the randomisation test rely on."""
    drawn = list(pairs(30, seed=99))
    answers, references = [answer for answer, _ in drawn], [reference for _, reference in drawn]
    made = corpus("bleu", answers, items_of(references))
    rng = np.random.default_rng(0)
    for _ in range(20):
        at = rng.integers(0, 30, size=30)
        wanted = (
            sacrebleu.BLEU(tokenize="zh").corpus_score([answers[i] for i in at], [[references[i] for i in at]]).score
        )
        assert made.tally.value(made.tally.rows[at].sum(axis=0)[None])[0] == pytest.approx(wanted, abs=1e-9)


def test_chinese_is_not_one_long_word() -> None:
    reference, answer = "员工出差每天补贴八十元整。", "员工出差每天补贴八十元。"
    chinese, english = (
        corpus("bleu", [answer], items_of([reference])),
        corpus("bleu", ["a b c d"], items_of(["a b c d"])),
    )
    assert "tok:zh" in chinese.signature and "tok:13a" in english.signature
    assert chinese.tally.total > 60
    assert sacrebleu.BLEU().corpus_score([answer], [[reference]]).score == 0  # what 13a says of it


def test_sentence_scores_lie_in_zero_to_one() -> None:
    dice = random.Random(1)
    for _ in range(300):
        reference = text(dice, length=10) or "x"
        item = items_of([reference])[0]
        for name in ("bleu", "chrf"):
            assert 0 <= METRICS.load(name)().score(twin(dice, reference), item).value <= 1
            assert METRICS.load(name)().score("", item).value == 0
