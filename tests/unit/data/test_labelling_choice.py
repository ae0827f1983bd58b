"""Choosing, label errors and the label model, each held to a known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import DataError
from danlu.data.labelling.choosing import choose, density, disagreement, entropy, nearness
from danlu.data.labelling.functions import apply_functions, load_functions
from danlu.data.labelling.label_errors import find_label_errors
from danlu.data.labelling.label_model import ABSTAIN, agree
from danlu.data.quality.vectors import vectors_of

# Doubt


def test_entropy_is_nothing_when_sure_and_one_when_clueless() -> None:
    doubts = entropy(np.array([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]]))
    assert doubts == pytest.approx([0, 1, math.log(2) / math.log(3)], abs=1e-6)


def test_equal_answers_agree_and_different_ones_do_not() -> None:
    doubts = disagreement([["80元", "80元", "80元"], ["80元", "八十块", "不知道"], ["唯一"], []])
    assert doubts[0] == 0 and doubts[1] > 0.9 and doubts[2] == doubts[3] == 0


# Choice


def test_twins_are_not_chosen_twice() -> None:
    texts = ["发票怎么报销"] * 20 + ["年假有几天", "食堂在哪里"]
    chosen = choose(vectors_of(texts), np.ones(len(texts)), 3)
    assert {texts[choice.index] for choice in chosen} == set(texts)


def test_what_is_labelled_is_not_asked_again() -> None:
    texts = ["发票怎么报销", "年假有几天", "发票怎么报销呢"]
    vectors = vectors_of(texts)
    (first, *_) = choose(vectors, np.ones(3), 1, labelled=nearness(vectors, [0]))
    assert texts[first.index] == "年假有几天"


def test_an_odd_row_is_worth_less_than_a_typical_one() -> None:
    texts = [f"报销{word}需要什么材料" for word in "差旅餐费交通住宿通讯办公"] + ["zzqx 9#! vvv"]
    assert density(vectors_of(texts))[-1] < 0.2
    (first, *_) = choose(vectors_of(texts), np.ones(len(texts)), 1)
    assert first.index != len(texts) - 1


def test_doubt_decides_between_rows_that_are_alike_otherwise() -> None:
    texts = ["abcdef", "ghijkl", "mnopqr"]
    (first, *_) = choose(vectors_of(texts), np.array([0.1, 0.9, 0.2]), 1)
    assert first.index == 1 and first.doubt == 0.9


@settings(max_examples=30)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=40), st.integers(1, 60), st.integers(1, 7))
def test_a_choice_has_no_row_twice_and_keeps_its_batches(texts: list[str], budget: int, batch: int) -> None:
    chosen = choose(vectors_of(texts), np.full(len(texts), 0.5), budget, batch=batch)
    assert len({choice.index for choice in chosen}) == len(chosen) == min(budget, len(texts))
    assert [choice.batch for choice in chosen] == [place // batch + 1 for place in range(len(chosen))]
    assert all(0 <= value <= 1 for one in chosen for value in (one.score, one.doubt, one.distance, one.density))


# Label errors


def test_label_errors_by_the_papers_thresholds() -> None:
    """Thresholds are the classes' mean self-confidence; a row counts for the class that it reaches."""
    labels = np.array([0, 0, 0, 1, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.1, 0.9], [0.7, 0.3]])
    # thresholds: class 0: (0.9 + 0.8 + 0.1) / 3 = 0.6; class 1: (0.8 + 0.9 + 0.3) / 3 = 0.667
    assert [(one.index, one.given, one.likely) for one in find_label_errors(labels, probabilities)] == [
        (2, 0, 1),
        (5, 1, 0),
    ]


def test_flipped_labels_are_found() -> None:
    dice = np.random.default_rng(4)
    truth = dice.integers(0, 3, 900)
    probabilities = np.full((900, 3), 0.1)
    probabilities[np.arange(900), truth] = 0.8
    probabilities = probabilities + dice.uniform(0, 0.15, probabilities.shape)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels, wrong = truth.copy(), set(range(0, 900, 10))
    for index in wrong:
        labels[index] = (truth[index] + 1) % 3
    found = find_label_errors(labels, probabilities)
    named = {error.index for error in found}
    assert named <= wrong and len(named) > 0.8 * len(wrong)
    assert all(error.likely == truth[error.index] for error in found)


def test_a_class_without_rows_is_never_likely() -> None:
    labels = np.array([0, 0, 1])
    probabilities = np.array([[0.5, 0.1, 0.4], [0.4, 0.1, 0.5], [0.1, 0.5, 0.4]])
    assert all(error.likely != 2 for error in find_label_errors(labels, probabilities))


def test_labels_flipped_in_real_wording_are_mostly_found() -> None:
    pytest.importorskip("sklearn", reason="the plain classifier needs scikit-learn (extra select)")
    from danlu.data.labelling.classifier import SIZES, guess_unseen

    texts = [f"第{n}次来，菜很好吃，服务热情" if n % 2 else f"第{n}次来，上菜太慢，态度很差" for n in range(120)]
    labels = ["好" if n % 2 else "差" for n in range(120)]
    wrong = {7, 30, 55, 90}
    given = [{"好": "差", "差": "好"}[label] if n in wrong else label for n, label in enumerate(labels)]
    guess = guess_unseen(vectors_of(texts, sizes=SIZES), given)
    numbers = np.array([guess.classes.index(label) for label in given])
    assert {error.index for error in find_label_errors(numbers, guess.probabilities)} == wrong


def test_a_class_of_one_row_cannot_be_judged() -> None:
    pytest.importorskip("sklearn", reason="the plain classifier needs scikit-learn (extra select)")
    from danlu.data.labelling.classifier import PlainClassifier, guess_unseen

    vectors = vectors_of(["a", "b", "c"])
    with pytest.raises(DataError) as failed:
        guess_unseen(vectors, ["x", "x", "y"])
    assert failed.value.key == "select.class_too_small"
    with pytest.raises(DataError) as failed:
        PlainClassifier(vectors).learn(["x", None, None])
    assert failed.value.key == "select.too_few_classes"


# Label model


def people(seed: int, accuracies: list[float], num_classes: int, silence: float) -> tuple[np.ndarray, np.ndarray]:
    dice = np.random.default_rng(seed)
    truth = dice.integers(0, num_classes, 1200)
    shift = dice.integers(1, num_classes, (1200, len(accuracies)))
    right = dice.random((1200, len(accuracies))) < accuracies
    votes = np.where(right, truth[:, None], (truth[:, None] + shift) % num_classes)
    votes[dice.random(votes.shape) < silence] = ABSTAIN
    return truth, votes


@pytest.mark.parametrize("seed", range(3))
def test_voters_are_weighed_by_how_often_they_are_right(seed: int) -> None:
    accuracies = [0.92, 0.85, 0.55, 0.5, 0.45]
    truth, votes = people(seed, accuracies, 3, 0.2)
    found = agree(votes, 3)
    ours = (found.probabilities.argmax(axis=1) == truth).mean()
    simple = np.stack([(votes == place).sum(axis=1) for place in range(3)], axis=1).argmax(axis=1)  # one voice each
    assert ours > (simple == truth).mean() + 0.05 and ours > 0.85
    assert found.accuracies == pytest.approx(accuracies, abs=0.07)
    assert found.shares.sum() == pytest.approx(1) and found.probabilities.sum(axis=1) == pytest.approx(1)


def test_a_row_without_votes_has_the_shares_of_the_classes() -> None:
    votes = np.array([[0, 0], [0, 0], [0, 0], [1, 1], [ABSTAIN, ABSTAIN]])
    found = agree(votes, 2, silence_tells=True)
    assert found.probabilities[4] == pytest.approx(found.shares, abs=1e-6)


def test_rules_that_know_one_class_each_do_not_collapse_into_one() -> None:
    """Without silence as a vote, EM took every row for the class of the louder rules."""
    dice = np.random.default_rng(2)
    truth = dice.integers(0, 2, 2000)
    votes = np.full((2000, 4), ABSTAIN)
    for column, (label, often, falsely) in enumerate([(1, 0.6, 0.1), (1, 0.4, 0.05), (0, 0.2, 0.05), (0, 0.15, 0.03)]):
        says = dice.random(2000) < np.where(truth == label, often, falsely)
        votes[says, column] = label
    found = agree(votes, 2, silence_tells=True)
    voted = (votes != ABSTAIN).any(axis=1)
    assert (found.probabilities.argmax(axis=1) == truth)[voted].mean() > 0.85
    assert (found.accuracies > 0.7).all()


FUNCTIONS = [
    {"name": "praise", "label": "好", "words": ["不错", "好吃"], "unless": ["不好吃"]},
    {"name": "late", "label": "差", "pattern": "等了.{0,3}小时"},
    {"name": "curt", "label": "差", "shorter_than": 3},
]


def test_functions_vote_or_keep_silent() -> None:
    weak = apply_functions(load_functions(FUNCTIONS, "f.yaml"), ["味道不错", "等了两个小时", "一般般吧", "不好吃啊"])
    assert weak.labels == ("好", "差", None, None) and weak.classes == ("好", "差")
    assert [round(one.coverage, 2) for one in weak.facts] == [0.25, 0.25, 0.0]
    assert weak.sureness[2] == 0.0


@pytest.mark.parametrize(
    "value",
    [[], {}, "x", [{"name": "a"}], [{"name": "a", "label": "b", "wrods": ["x"]}], [{"name": "a", "label": "b", "pattern": "("}],
     [{"name": "a", "label": "b", "words": [[]]}], [{"name": "a", "label": "b"}, {"name": "a", "label": "c"}], [3],
     [{"name": "a", "label": "b", "longer_than": "x"}]],
)  # fmt: skip
def test_functions_that_cannot_be_understood_are_named(value: object) -> None:
    with pytest.raises(DataError) as failed:
        load_functions(value, "f.yaml")
    assert failed.value.key in ("select.no_functions", "select.bad_function") and "f.yaml" in failed.value.text
