"""A shelf: names to lazily loaded objects. A typo is answered with the nearest name.

Another package adds to a shelf by an entry point in the group `danlu.<shelf>`, for example
`[project.entry-points."danlu.metrics"]  bertscore = "my_package:BertScore"`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from danlu.core.errors import RecipeError
from danlu.core.messages import listed

Thing = TypeVar("Thing")


class Shelf(Generic[Thing]):
    """`Shelf("metrics", {"exact": "danlu.evaluation.metrics.exact:Exact"})`; nothing is imported before `load`."""

    def __init__(self, name: str, places: dict[str, str]) -> None:
        self.name, self._own = name, places

    @functools.cached_property
    def places(self) -> dict[str, str]:
        """Name to `module:attribute`, other packages' entry points included; our own names cannot be taken over."""
        from importlib.metadata import entry_points  # slow to load, and a recipe's faults need no shelf

        return {point.name: point.value for point in entry_points(group=f"danlu.{self.name}")} | self._own

    def names(self) -> list[str]:
        return sorted(self.places)

    def load(self, name: str, *, where: str = "") -> Thing:
        """RecipeError, with the nearest name, for one that is not here; `where` is the recipe's key or the option."""
        if name not in self.places:
            raise unknown_name(name, self.names(), of=self.name, where=where)
        module, _, attribute = self.places[name].partition(":")
        thing: Any = getattr(importlib.import_module(module), attribute)
        return thing  # type: ignore[no-any-return]


def unknown_name(given: str, known: Iterable[str], *, of: str, where: str) -> RecipeError:
    """What is raised for a name that is none of the known ones, whether or not they lie on a shelf."""
    names = list(known)
    return RecipeError(
        "core.unknown_name",
        where=where,
        given=given,
        shelf=of,
        nearest=nearest(given, names),
        known=listed(names) or "-",
    )


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known name most like the given one, or None when nothing is close."""
    matches = difflib.get_close_matches(given.lower(), list(known), n=1, cutoff=0.55)
    return matches[0] if matches else None
