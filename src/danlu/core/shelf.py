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
        if name not in self.places:
            raise RecipeError(
                "core.unknown_name",
                where=where,
                given=name,
                shelf=self.name,
                nearest=nearest(name, self.places) or "-",
                known=", ".join(self.names()),
            )
        module, _, attribute = self.places[name].partition(":")
        thing: Any = getattr(importlib.import_module(module), attribute)
        return thing  # type: ignore[no-any-return]


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known name most like the given one, or None when nothing is close."""
    matches = difflib.get_close_matches(given.lower(), list(known), n=1, cutoff=0.55)
    return matches[0] if matches else None
