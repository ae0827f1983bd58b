"""What a sweep tries, and who is told apart from whom."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.core.errors import RecipeError
from danlu.evaluation.ranking import Candidate, rank
from danlu.evaluation.ranking_html import render_ranking, verdict
from danlu.pipeline.trials import Range, combinations, num_going_on, read_over, rungs_of, shortened, trial_recipe
from danlu.recipe import Recipe
from danlu.recipe.recipe import InvalidRecipeError

OVER = ["training.lr=1e-4,3e-4", "training.epochs=1,2,3", "adapter.rank=4,8"]


def test_a_grid_is_every_combination_and_a_draw_is_the_same_for_a_seed() -> None:
    over = read_over(OVER)
    grid = combinations(over, "grid", trials=None, seed=0)
    assert len(grid) == 12 and len({str(one) for one in grid}) == 12
    drawn = combinations(over, "random", trials=5, seed=3)
    assert drawn == combinations(over, "random", trials=5, seed=3) and all(one in grid for one in drawn)
    assert drawn != combinations(over, "random", trials=5, seed=4)
    assert len(combinations(over, "random", trials=50, seed=0)) == 12, "no more than there are"


@given(seed=st.integers(0, 1000))
def test_ranges_are_drawn_within_their_ends(seed: int) -> None:
    rng = random.Random(seed)
    assert 1e-5 <= Range(1e-5, 1e-3).draw(rng) <= 1e-3
    rank_ = Range(4, 64).draw(rng)
    assert isinstance(rank_, int) and 4 <= rank_ <= 64


@pytest.mark.parametrize(
    ("texts", "key"),
    [
        (["training.lr"], "sweep.bad_over"), (["training.lr=a..b"], "sweep.bad_over"), ([], "sweep.nothing"),
        (["training.lr=1e-4", "training.lr=2e-4"], "sweep.bad_over"), (["training.lr=1,1"], "sweep.bad_over"),
        (["training.lr= , "], "sweep.bad_over"), (["adapter.rank=16..4"], "sweep.bad_over"),
        (["training.lr=nan..1"], "sweep.bad_over"), (["data.split.seed=1,2"], "sweep.same_for_all"),
        (["evaluation.metric=exact,f1"], "sweep.same_for_all"),
    ],
)  # fmt: skip
def test_what_is_no_key_with_values_is_refused(texts: list[str], key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_over(texts)
    assert caught.value.key == key


def test_a_range_and_an_endless_grid_are_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        combinations(read_over(["training.lr=1e-5..1e-3"]), "grid", trials=None, seed=0)
    assert caught.value.key == "sweep.range_in_grid"
    many = [f"training.{key}=" + ",".join(map(str, range(1, 10))) for key in ("epochs", "max_steps", "seed")]
    with pytest.raises(RecipeError) as caught:
        combinations(read_over(many), "grid", trials=None, seed=0)
    assert caught.value.key == "sweep.too_many"


def test_trials_take_their_values_and_a_key_that_is_none_is_named() -> None:
    recipe = Recipe.from_tree({"training": {"epochs": 9.0}, "adapter": {"kind": "lora", "rank": 4}})
    trial = trial_recipe(recipe, {"training.lr": 3e-4, "adapter.rank": 16})
    assert trial.plan_stages()[0].training.lr == 3e-4 and trial.adapter.rank == 16 and trial.exports == ()
    assert shortened(trial, 1 / 3).training.epochs == 3.0 and shortened(trial, 1.0) is trial
    with pytest.raises(InvalidRecipeError, match=r"training\.lr"):
        trial_recipe(recipe, {"training.lrr": 3e-4})


@pytest.mark.parametrize(("num", "rungs"), [(1, 1), (5, 1), (6, 2), (17, 2), (18, 3), (81, 3)])
def test_halving_ends_with_the_whole_training(num: int, rungs: int) -> None:
    shares = rungs_of(num)
    assert len(shares) == rungs and shares[-1] == 1.0 and shares == sorted(shares)
    for _ in shares[1:]:
        num = num_going_on(num)
    assert num >= 1


def test_equal_trainings_are_not_told_apart_for_being_many() -> None:
    """The best was picked by its answers: the comparisons with it alone are too few to correct for."""
    rng = random.Random(5)
    num_apart = 0
    for _ in range(60):
        drawn = [candidate(str(n), [rng.random() < 0.5 for _ in range(60)]) for n in range(12)]
        num_apart += any(one.is_apart for one in rank(drawn))
    assert num_apart <= 5


def test_what_was_asked_of_other_questions_is_placed_by_those_in_common() -> None:
    short = candidate("short", [True] * 10)
    whole = candidate("whole", [True] * 10 + [False] * 10)
    assert [one.candidate.name for one in rank([whole, short])] == ["short", "whole"]
    assert rank([whole, short])[1].behind == 0.0
    better = candidate("better", [True] * 20)
    easy = Candidate("easy", {}, 1.0, (0.9, 1.0), 1.0, {"0": (False, "0"), "x": (True, "x"), "y": (True, "y")})
    assert rank([easy, better])[0].candidate.name == "better"


def candidate(name: str, rights: list[bool]) -> Candidate:
    share = sum(rights) / len(rights)
    return Candidate(name, {"k": name}, share, (share - 0.1, share + 0.1), share,
                     {str(i): (right, str(i)) for i, right in enumerate(rights)})  # fmt: skip


def test_what_differs_by_one_question_is_not_told_apart_and_what_is_far_behind_is() -> None:
    best, near, far = [True] * 40 + [False] * 10, [True] * 39 + [False] * 11, [True] * 10 + [False] * 40
    placed = rank([candidate("far", far), candidate("near", near), candidate("best", best)])
    assert [one.candidate.name for one in placed] == ["best", "near", "far"]
    assert [one.is_apart for one in placed] == [False, False, True]
    assert placed[2].behind == pytest.approx(0.6) and placed[2].interval[0] > 0.3
    alone = {"ranking": [placed[0].to_json()], "num_alike": 1}
    assert "stands beside" in verdict(alone, "en") and "可以比较" in verdict(alone, "zh")
    found = {"ranking": [one.to_json() for one in placed], "num_alike": 2, "base": 0.1, "num_items": 50,
             "dropped": [], "failed": [{"trial": "t9", "settings": {"k": 1}, "error": "<out of memory>"}]}  # fmt: skip
    for language in ("en", "zh"):
        page = render_ranking(found, "x", language)
        assert "&lt;out of memory" in page and "2" in verdict(found, language)
