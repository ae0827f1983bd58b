"""Tasks on engines that answer from a table, the answers kept on disk, and the runner over both models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from evaluation_story import TableEngine, tokens_of

from danlu.core.errors import EvaluationError
from danlu.data.sample import Document, Message, Origin
from danlu.data.sample import Preference as PreferenceSample
from danlu.data.tokens import Tokens
from danlu.engines.engine import Answer, Sampling, Score
from danlu.evaluation.cache import CachedEngine
from danlu.evaluation.items import load_questions
from danlu.evaluation.runner import Assignment, run_tasks
from danlu.evaluation.tasks import TASKS
from danlu.evaluation.tasks.consistency import Consistency
from danlu.evaluation.tasks.domain import Domain
from danlu.evaluation.tasks.edge import Edge
from danlu.evaluation.tasks.forgetting import Forgetting, Passage, passages_from
from danlu.evaluation.tasks.preference import Pair, Preference, pairs_from


def test_every_task_on_the_shelf_loads_under_its_own_name() -> None:
    assert all(TASKS.load(name).name == name for name in TASKS.names())


def test_domain_counts_what_each_model_got_right() -> None:
    items = load_questions([{"question": f"q{i}", "answer": f"{i}元", "group": f"g{i}"} for i in range(1, 11)]).items
    base = TableEngine("base", {"q1": "1元"})
    tuned = TableEngine("tuned", {f"q{i}": f"是{i}元。" for i in range(1, 10)})
    summary = run_tasks(base, tuned, [Assignment(Domain(), items)])["domain"].summary
    assert (summary["base"]["accuracy"], summary["tuned"]["accuracy"]) == (0.1, 0.9)
    assert (summary["difference"]["num_gained"], summary["difference"]["num_lost"]) == (8, 0)
    assert summary["difference"]["p"] == pytest.approx(2 / 2**8)
    assert summary["metrics"]["contains"]["tuned"] == pytest.approx(0.9)


def test_three_equal_wrong_answers_are_not_consistent() -> None:
    items = load_questions(
        [{"question": q, "answer": "80元"} for q in ("right", "wrong", "wavering", "babbling")]
    ).items
    engine = TableEngine(
        "m",
        {
            "right": "80元",
            "wrong": "180元",
            "wavering": lambda sampling: "80元" if sampling.seed % 2 else "90元",
            "babbling": lambda sampling: f"{sampling.seed + 200}元",
        },
    )
    results = Consistency(Sampling(temperature=0.7)).run(engine, items)
    classes = [result.details["class"] for result in results]
    assert classes == ["consistent_right", "consistent_wrong", "inconsistent", "inconsistent"]
    summary = Consistency().compare(items, results, results)
    assert summary["tuned"]["consistent_right"] == summary["tuned"]["accuracy"] == 0.25


def test_a_model_that_refuses_everything_fails_the_controls() -> None:
    rows: list[dict[str, object]] = [
        {"question": "secret?", "answer": "", "kind": "unanswerable"},
        {"question": "bus?", "answer": "7:30", "kind": "unanswerable_control"},
    ]
    items = load_questions(rows).items
    refuser = TableEngine("m", {}, fallback="The handbook does not say.")
    results = Edge().run(refuser, items)
    summary = Edge().compare(items, results, results)["kinds"]["unanswerable"]["tuned"]
    assert summary["accuracy"] == 1.0 and summary["control"]["accuracy"] == 0.0
    assert summary["refusal_recall"] == 1.0 and summary["refusal_precision"] == 0.5


def test_perplexity_ratio_is_that_of_the_mean_log_probabilities() -> None:
    texts = [Passage(f"p{i}", tokens_of(20 + i)) for i in range(12)]
    base, tuned = TableEngine("base", {}, log_prob=-2.0), TableEngine("tuned", {}, log_prob=-2.1)
    summary = run_tasks(base, tuned, [Assignment(Forgetting(), texts)])["forgetting"].summary
    assert summary["ratio"] == pytest.approx(math.exp(0.1))
    assert summary["interval"][0] <= summary["ratio"] + 1e-9 and summary["ratio"] <= summary["interval"][1] + 1e-9
    assert summary["num_tokens"] == sum(19 + i for i in range(12))  # the first token of each is context only


class FlatEngine(TableEngine):
    """Every token is equally likely."""

    def score(self, samples: Sequence[Tokens]) -> list[Score]:
        return [Score((-1.0,) * (len(tokens) - 1)) for tokens in samples]


def test_preference_reads_raw_normalised_and_implicit() -> None:
    # Chosen is shorter: a constant log-probability per token prefers it raw, and ties per token.
    pairs = [Pair(f"p{i}", tokens_of(8), tokens_of(15)) for i in range(10)]
    flat = FlatEngine("base", {})
    results = Preference().run(flat, pairs)
    summary = Preference().compare(pairs, results, results)
    assert summary["base"]["raw"]["value"] == 1.0
    assert summary["base"]["normalised"]["value"] == 0.5
    assert summary["implicit_reward"]["value"] == 0.5  # nothing moved


def test_a_killed_evaluation_asks_only_what_is_missing(tmp_path: Path) -> None:
    items = load_questions([{"question": f"q{i}", "answer": "x"} for i in range(10)]).items
    first = TableEngine("m", {}, fallback="x")
    Domain().run(CachedEngine(first, tmp_path), items[:6])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes() + b'{"key": "torn')  # killed in the middle of a write
    second = TableEngine("m", {}, fallback="x")
    Domain().run(CachedEngine(second, tmp_path), items)
    assert second.asked == [f"q{i}" for i in range(6, 10)]
    third = TableEngine("m", {}, fallback="x")
    Domain().run(CachedEngine(third, tmp_path), items)
    assert third.asked == []


def test_other_weights_or_sampling_are_asked_again(tmp_path: Path) -> None:
    items = load_questions([{"question": "q", "answer": "x"}]).items
    Domain().run(CachedEngine(TableEngine("a", {}), tmp_path), items)
    other = TableEngine("b", {})
    Domain().run(CachedEngine(other, tmp_path), items)
    warmer = TableEngine("a", {})
    Domain(Sampling(temperature=0.5)).run(CachedEngine(warmer, tmp_path), items)
    assert other.asked == warmer.asked == ["q"]


def test_scores_come_back_from_disk_unchanged(tmp_path: Path) -> None:
    samples = [tokens_of(9), tokens_of(5)]
    fresh = CachedEngine(TableEngine("m", {}), tmp_path).score(samples)
    again = CachedEngine(TableEngine("m", {}), tmp_path)
    assert again.score(samples) == fresh and again.num_asked == 0


class FailingEngine(TableEngine):
    def generate(self, questions, sampling, *, watch=None):  # type: ignore[no-untyped-def]
        return [Answer("", "error", error="503") for _ in questions]


def test_a_failed_answer_is_wrong_counted_and_not_kept(tmp_path: Path) -> None:
    items = load_questions([{"question": "q", "answer": "x"}]).items
    summary = run_tasks(FailingEngine("a", {}), TableEngine("b", {}), [Assignment(Domain(), items)], folder=tmp_path)[
        "domain"
    ].summary
    assert summary["base"]["faults"] == {"error": 1}
    healed = TableEngine("a", {}, fallback="x")
    Domain().run(CachedEngine(healed, tmp_path), items)
    assert healed.asked == ["q"]


def test_a_task_without_items_says_what_to_do() -> None:
    with pytest.raises(EvaluationError) as caught:
        run_tasks(TableEngine("a", {}), TableEngine("b", {}), [Assignment(Domain(), [])])
    assert "evaluation.questions" in caught.value.fix


def test_samples_become_passages_and_pairs() -> None:
    origin = Origin("g.txt", 3)
    passages = passages_from([Document("text", origin)], lambda sample: [tokens_of(9), tokens_of(1), tokens_of(4)])
    assert [passage.id for passage in passages] == ["g.txt:3#1", "g.txt:3#3"]  # one token predicts nothing
    assert {passage.group for passage in passages} == {"g.txt:3"}
    turn = (Message("user", "q"),)
    preference = PreferenceSample(turn, turn, turn, origin, group="fact")
    (pair,) = pairs_from([preference, Document("text", origin)], lambda sample: [tokens_of(5), tokens_of(6)])
    assert pair.group == "fact" and len(pair.rejected) == 6
    assert pairs_from([preference], lambda sample: []) == ()
