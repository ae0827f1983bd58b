"""Which decoder layers `adapter.layers` means: counted from 0, the first being the one that reads the embedding."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from danlu.core.errors import RecipeError
from danlu.core.messages import say


def _told(value: Any) -> Any:
    """One complaint for whatever is wrong with it."""
    if value is None or (_is_number(value) and value > 0):
        return value
    if isinstance(value, list | tuple) and value and all(_span(entry) is not None for entry in value):
        return tuple(value)
    raise PydanticCustomError("layers", say("recipe.layers"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _span(entry: Any) -> range | None:
    """The layers that one entry of a list means, or None where it means nothing."""
    if _is_number(entry) and entry >= 0:
        return range(entry, entry + 1)
    found = re.fullmatch(r"(\d{1,6})-(\d{1,6})", entry) if isinstance(entry, str) else None
    return (range(int(found[1]), int(found[2]) + 1) or None) if found else None


Layers = Annotated[int | tuple[int | str, ...] | None, BeforeValidator(_told)]
"""A number N: the last N layers. A list: these layers, such as 0, or 24-31 with both ends. None: all."""


def chosen_layers(layers: Layers, num_layers: int) -> tuple[int, ...] | None:
    """Their numbers in order; None where all are meant. RecipeError for one that a model of so many layers has not."""
    if layers is None:
        return None
    spans = (
        [range(num_layers - layers, num_layers)]
        if isinstance(layers, int)
        else [_span(entry) or () for entry in layers]
    )
    if any(span[0] < 0 or span[-1] >= num_layers for span in spans if span):  # ends alone: a span may be of any length
        given = layers if isinstance(layers, int) else ", ".join(map(str, layers))
        raise RecipeError("recipe.no_such_layer", where="adapter.layers", given=given, num_layers=num_layers,
                          last=num_layers - 1)  # fmt: skip
    chosen = {layer for span in spans for layer in span}
    return tuple(sorted(chosen)) if len(chosen) < num_layers else None
