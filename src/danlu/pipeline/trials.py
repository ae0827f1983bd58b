"""What a sweep tries: values of recipe keys, all combinations or a seeded draw of them, and budgets for halving."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from danlu.core.errors import RecipeError
from danlu.recipe import Recipe

By = Literal["grid", "random", "halving"]
Value = int | float | str | bool | None
MOST = 512
"""More combinations than this are no grid that anybody waits for."""
USUAL_DRAWS = 12
ETA = 3
"""Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943): of the trials of a rung one in so many goes on,
on so many times the training."""
MOST_RUNGS = 3
SAME_FOR_ALL = ("name", "data.split", "data.validation", "data.test", "evaluation", "gate", "exports", "serving")
"""What decides which questions are asked and how they are judged, or what comes after: the same for every trial."""


@dataclass(frozen=True, slots=True)
class Range:
    """Any number between two. Drawn evenly in the logarithm where one is ten times the other or more."""

    low: float
    high: float

    def draw(self, rng: random.Random) -> float | int:
        is_whole = float(self.low).is_integer() and float(self.high).is_integer()
        if is_whole:
            return rng.randint(int(self.low), int(self.high))
        if self.low > 0 and self.high >= 10 * self.low:
            return float(f"{math.exp(rng.uniform(math.log(self.low), math.log(self.high))):.3g}")
        return float(f"{rng.uniform(self.low, self.high):.3g}")


Over = Mapping[str, "list[Value] | Range"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is tried: values by key, how they are chosen, how many, and how many at once."""

    over: Over
    by: By = "grid"
    trials: int | None = None
    seed: int = 0
    parallel: int = 1

    def to_json(self) -> dict[str, Any]:
        over = {key: [v.low, v.high] if isinstance(v, Range) else v for key, v in self.over.items()}
        return {"over": over, "by": self.by, "trials": self.trials, "seed": self.seed}


def read_over(texts: Sequence[str]) -> dict[str, list[Value] | Range]:
    """`training.lr=1e-4,3e-4`, `training.lr=1e-5..1e-3` by key. RecipeError on anything else, or a key named twice."""
    found: dict[str, list[Value] | Range] = {}
    for text in texts:
        key, equals, said = text.partition("=")
        key = key.strip()
        if not equals or not key or not said.strip(" ,") or key in found:
            raise RecipeError("sweep.bad_over", where="--over", given=text)
        if any(key == kept or key.startswith(f"{kept}.") for kept in SAME_FOR_ALL):
            raise RecipeError("sweep.same_for_all", where="--over", given=key)
        low, dots, high = said.partition("..")
        if dots:
            try:
                ends = Range(float(low), float(high))
            except ValueError as error:
                raise RecipeError("sweep.bad_over", where="--over", given=text) from error
            if not -math.inf < ends.low < ends.high < math.inf:
                raise RecipeError("sweep.bad_over", where="--over", given=text)
            found[key] = ends
            continue
        values = [_value(part.strip()) for part in said.split(",") if part.strip()]
        if len(set(map(str, values))) != len(values) or any(isinstance(value, list | dict) for value in values):
            raise RecipeError("sweep.bad_over", where="--over", given=text)
        found[key] = values
    if not found:
        raise RecipeError("sweep.nothing", where="--over")
    return found


def _value(text: str) -> Any:
    """YAML 1.1 reads `2e-4` as a string."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def combinations(over: Over, by: By, *, trials: int | None, seed: int) -> list[dict[str, Value]]:
    """Each trial's values by key: every one for a grid, else `trials` different ones drawn by seed."""
    if by == "grid":
        if any(isinstance(values, Range) for values in over.values()):
            raise RecipeError("sweep.range_in_grid", where="--over")
        listed = [values if isinstance(values, list) else [] for values in over.values()]
        if (num := math.prod(map(len, listed))) > MOST:
            raise RecipeError("sweep.too_many", where="--over", given=num, most=MOST)
        return [dict(zip(over, chosen, strict=True)) for chosen in itertools.product(*listed)][:trials]
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    found: list[dict[str, Value]] = []
    wanted = trials or USUAL_DRAWS
    for _ in range(50 * wanted):
        drawn = {
            key: values.draw(rng) if isinstance(values, Range) else rng.choice(values) for key, values in over.items()
        }
        if drawn not in found:
            found.append(drawn)
        if len(found) == wanted:
            break
    return found


def trial_recipe(recipe: Recipe, values: Mapping[str, Value]) -> Recipe:
    """The recipe with these values; it exports nothing. InvalidRecipeError names the key that does not take one."""
    tree = recipe.model_dump(mode="json", exclude_unset=True) | {"exports": []}
    return Recipe.from_tree(tree, [f"{key}={json.dumps(value)}" for key, value in values.items()])


def rungs_of(num_trials: int) -> list[float]:
    """Shares of the training that each rung gets, the last one all of it: [1.0] where there is nothing to halve."""
    num = 1
    while num < MOST_RUNGS and num_trials >= ETA**num * 2:
        num += 1
    return [ETA ** -(num - 1 - rung) for rung in range(num)]


def num_going_on(num_trials: int) -> int:
    return max(1, math.ceil(num_trials / ETA))


def shortened(recipe: Recipe, share: float) -> Recipe:
    """The same training, its schedule and all, in a part of the steps."""
    if share >= 1.0:
        return recipe
    training = recipe.training
    if training.max_steps is not None:
        return trial_recipe(recipe, {"training.max_steps": max(1, round(training.max_steps * share))})
    return trial_recipe(recipe, {"training.epochs": float(f"{training.epochs * share:.4g}")})
