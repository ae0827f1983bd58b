"""Documents are what questions are clustered by, wherever there are enough of them."""

from __future__ import annotations

from danlu.evaluation.clusters import LEAST_DOCUMENTS, clusters
from danlu.evaluation.items import Item


def asked(num_documents: int, *, facts: int = 3, **changes: str) -> list[Item]:
    return [
        Item(f"{d}-{f}-{q}", (), "x", document=f"d{d}", group=f"fact{d}-{f}", **changes)
        for d in range(num_documents)
        for f in range(facts)
        for q in range(2)
    ]


def test_many_documents_are_the_clusters_few_are_not() -> None:
    assert len(set(clusters(asked(LEAST_DOCUMENTS)))) == LEAST_DOCUMENTS
    few = asked(LEAST_DOCUMENTS - 1)
    assert clusters(few) == [item.group for item in few]


def test_a_fact_in_two_documents_ties_them() -> None:
    """The same fact asked of the Chinese and of the English handbook."""
    twins = [
        Item(f"{i}-{lang}", (), "x", document=f"{lang}{i}", group=f"fact{i}")
        for i in range(12)
        for lang in ("zh", "en")
    ]
    assert len(set(clusters(twins))) == 12
    one = [Item(str(i), (), "x", document=f"d{i}", pair="same") for i in range(20)]
    assert clusters(one) == ["same"] * 20


def test_items_of_unknown_document_keep_their_groups() -> None:
    few = [Item(str(i), (), "x", document="handbook") for i in range(3)]
    assert clusters(few) == ["0", "1", "2"], "one handbook: it speaks of this handbook"
    mixed = [*asked(12), Item("loose", (), "x")]
    assert clusters(mixed)[-1] == "loose" and clusters(mixed)[0] == "fact0-0"
    assert clusters([]) == []
