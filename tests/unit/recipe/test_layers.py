"""What `adapter.layers` means, and what of it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from danlu.core.errors import RecipeError
from danlu.recipe import Recipe
from danlu.recipe.layers import chosen_layers
from danlu.recipe.recipe import InvalidRecipeError


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        (None, None), (28, None), (["0-27"], None),  # all of them is no choice
        (1, (27,)), (3, (25, 26, 27)), ([0, "25-27", 26], (0, 25, 26, 27)), ([5], (5,)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_number_is_the_last_ones_a_list_is_these(kind: str, layers: Any, chosen: tuple[int, ...] | None) -> None:
    recipe = Recipe.from_tree({"adapter": {"kind": kind, "layers": layers}})
    assert chosen_layers(recipe.adapter.layers, 28) == chosen


@pytest.mark.parametrize("layers", [29, 10**12, [28], [0, "27-28"]])  # one of them filled the memory of a machine
def test_layers_that_a_base_has_not_are_named(layers: Any) -> None:
    with pytest.raises(RecipeError, match="28 layers, numbered 0 to 27"):
        chosen_layers(layers, 28)


@pytest.mark.parametrize("layers", [0, -2, [], "last 4", ["4-"], ["7-4"], [-1], [True], True, 1.5, {"last": 4}])
def test_nonsense_is_one_complaint(layers: Any) -> None:
    with pytest.raises(InvalidRecipeError) as caught:
        Recipe.from_tree({"adapter": {"layers": layers}})
    (complaint,) = caught.value.complaints
    assert complaint.key == "adapter.layers" and "[0, 1, 24-31]" in complaint.expected


def test_the_command_line_says_both_forms() -> None:
    assert Recipe.from_tree({}, ["adapter.layers=4"]).adapter.layers == 4
    assert Recipe.from_tree({}, ["adapter.layers=[0,24-27]"]).adapter.layers == (0, "24-27")
