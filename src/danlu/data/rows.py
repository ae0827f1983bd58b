"""Why a row cannot become a sample, and its cells as text. What every format needs before it knows of turns."""

from __future__ import annotations

import json
import math
from typing import Any, TypeAlias

from danlu.core.errors import DataError

Changes: TypeAlias = list[tuple[str, dict[str, Any]]]
"""What a format had to touch: (reason in the room `ledger`, values)."""


class RowError(DataError):
    """A row that cannot become a sample: `reason` is a key of the room `ledger`."""

    def __init__(self, reason: str, **values: Any) -> None:
        super().__init__(f"ledger.{reason}", **values)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.reason, self.values)


def _rebuild(reason: str, values: dict[str, Any]) -> RowError:
    return RowError(reason, **values)


def text_of(value: Any, part: str, changes: Changes) -> str:
    """A string, or a number as people write it. Raises RowError for anything else; None is the empty string."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        changes.append(("number_as_text", {"part": part, "value": value}))
        return str(value)
    raise RowError("wrong_type", part=part, kind=kind_of(value), expected="text")


def kind_of(value: Any) -> str:
    """What JSON calls it."""
    names = {bool: "boolean", dict: "object", list: "list", str: "text", int: "number", float: "number"}
    return next(
        (name for kind, name in names.items() if isinstance(value, kind)),
        "null" if value is None else type(value).__name__,
    )


def loads_list(value: Any, part: str = "tools") -> list[Any]:
    """A list, one object, or either as JSON text. Raises RowError when the text is not JSON."""
    if isinstance(value, str):
        if not value.strip():
            return []
        try:
            value = json.loads(value)
        except ValueError as error:
            if part != "tools":
                raise RowError("wrong_type", part=part, kind="text", expected="list") from error
            raise RowError("bad_tool", detail=value[:60]) from error
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
