"""Which questions stand or fall together: the clusters that intervals and tests are drawn by.

Questions on one document share what the model made of that document, so the document is the cluster. Fewer than eight
documents are too few to draw from (five can never show p < 0.05): then it is the fact (`group`), the pair or the
question, and the result speaks of these very documents, not of others like them.
"""

from __future__ import annotations

from collections.abc import Sequence

from danlu.evaluation.items import Item

LEAST_DOCUMENTS = 8


def clusters(items: Sequence[Item]) -> list[str]:
    """A cluster's name for each item. Facts and pairs that span documents tie these together."""
    if items and all(item.document for item in items):
        tied = _tied(items)
        if len(set(tied)) >= LEAST_DOCUMENTS:
            return tied
    return [item.group or item.pair or item.id for item in items]


def _tied(items: Sequence[Item]) -> list[str]:
    """The first document of all that are linked by a common group or pair."""
    parent = {item.document: item.document for item in items}

    def first(document: str) -> str:
        while parent[document] != document:
            parent[document] = parent[parent[document]]
            document = parent[document]
        return document

    seen: dict[tuple[str, str], str] = {}
    for item in items:
        for tie in (("group", item.group), ("pair", item.pair)):
            if tie[1]:
                parent[first(item.document)] = first(seen.setdefault(tie, item.document))
    return [first(item.document) for item in items]
