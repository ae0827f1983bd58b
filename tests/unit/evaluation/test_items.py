"""Questions from rows and from Samples."""

from __future__ import annotations

import pytest

from danlu.core.errors import EvaluationError
from danlu.data.sample import Conversation, Document, Label, Message, Origin
from danlu.evaluation.items import choose_items, load_questions

ORIGIN = Origin("a.jsonl", 1)


def test_the_last_answer_is_the_reference_and_the_rest_is_asked() -> None:
    turns = (
        Message("system", "s"),
        Message("user", "q"),
        Message("assistant", "a"),
        Message("user", "q2"),
        Message("assistant", "a2"),
    )
    (item,) = load_questions([Conversation(turns, ORIGIN, group="g", tags={"value": "a2", "kind": "negation"})]).items
    assert (item.reference, len(item.messages), item.text, item.cluster, item.kind) == ("a2", 4, "q2", "g", "negation")


def test_labels_know_all_classes_and_are_asked_as_in_training() -> None:
    def ask(label: Label) -> Conversation:
        return Conversation(
            (Message("user", f"Class of: {label.text}"), Message("assistant", label.label)), label.origin
        )

    items = load_questions([Label("t1", "pos", ORIGIN), Label("t2", "neg", ORIGIN)], ask_label=ask).items
    assert items[0].labels == ("neg", "pos")
    assert items[0].text == "Class of: t1"


def test_what_cannot_be_asked_is_counted() -> None:
    questions = load_questions([Document("text", ORIGIN), Conversation((Message("user", "q"),), ORIGIN)])
    assert questions.items == () and questions.skipped == {"document": 1, "no_answer": 1}


def test_a_row_without_an_answer_is_named_by_its_number() -> None:
    with pytest.raises(EvaluationError) as caught:
        load_questions([{"question": "q", "answer": "a"}, {"question": "q"}], name="qa.jsonl")
    assert "qa.jsonl:2" in str(caught.value)
    with pytest.raises(EvaluationError) as caught:
        load_questions([{"frage": "q"}])
    assert caught.value.key == "evaluation.no_question" and "frage" in str(caught.value)


def test_twins_of_edge_cases_are_told_by_their_kind() -> None:
    rows = [{"question": "q", "answer": "a", "kind": "sarcasm_control", "pair": "p1"}]
    (item,) = load_questions(rows).items
    assert item.kind == "sarcasm" and item.control and item.cluster == "p1"


def test_equal_rows_get_distinct_ids() -> None:
    first, second = load_questions([{"question": "q", "answer": "a"}] * 2).items
    assert first.id != second.id


def test_choosing_spreads_over_groups_and_is_repeatable() -> None:
    rows = [{"question": f"q{i}", "answer": "a", "group": f"g{i % 5}"} for i in range(50)]
    items = load_questions(rows).items
    chosen = choose_items(items, 5, seed=3)
    assert len({item.group for item in chosen}) == 5
    assert chosen == choose_items(items, 5, seed=3)
    assert choose_items(items, None) == items


@pytest.mark.parametrize(("cell", "control"), [("false", False), ("0", False), ("", False), ("true", True), (1, True)])
def test_a_control_is_told_by_the_word_and_not_by_its_presence(cell: object, control: bool) -> None:
    """CSV cells are texts: "false" is one as well."""
    (asked,) = load_questions([{"question": "q", "answer": "a", "control": cell}]).items
    assert asked.control is control
