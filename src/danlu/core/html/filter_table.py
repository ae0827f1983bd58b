"""A table that a reader can search, filter by a tag and sort; without JavaScript all its rows simply stand there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from danlu.core.html.tag import Content, join, tag


@dataclass(frozen=True, slots=True)
class Row:
    """Cells, the tags it is filtered by, and what its columns sort by (empty: the cells' text)."""

    cells: tuple[Content, ...]
    tags: tuple[str, ...] = ()
    keys: tuple[str | float, ...] = ()


@dataclass(frozen=True, slots=True)
class Filter:
    """A button that shows the rows carrying `tag` ("" shows all)."""

    tag: str
    label: str


def filter_table(
    heads: Sequence[str], rows: Sequence[Row], *, filters: Sequence[Filter] = (), search: str = "", empty: str = ""
) -> Markup:
    """`search` is the search field's label, `empty` what is said when no row is left."""
    buttons = [
        tag(
            "button",
            {"type": "button", "data-tag": choice.tag, "aria-pressed": "true" if index == 0 else "false"},
            choice.label,
            " ",
            tag("b", None, str(sum(choice.tag in row.tags or not choice.tag for row in rows))),
        )
        for index, choice in enumerate(filters)
    ]
    field = Markup('<input type="search" placeholder="{0}" aria-label="{0}">').format(search) if search else None
    head = [
        tag("th", {"scope": "col"}, tag("button", {"type": "button", "data-column": index}, text))
        for index, text in enumerate(heads)
    ]
    body = [tag("tr", {"data-tags": " ".join(row.tags)}, *_cells(row)) for row in rows]
    return tag(
        "div",
        {"class": "filter-table"},
        tag("div", {"class": "controls"}, join(*buttons), field),
        tag(
            "div",
            {"class": "scroll tall", "tabindex": 0},
            tag("table", None, tag("thead", None, tag("tr", None, *head)), tag("tbody", None, *body)),
            tag("p", {"class": "empty", "hidden": True}, empty),
        ),
    )


def _cells(row: Row) -> list[Markup]:
    keys = row.keys or ("",) * len(row.cells)
    return [
        tag("td", {"data-key": key if key != "" else None}, cell) for cell, key in zip(row.cells, keys, strict=True)
    ]
