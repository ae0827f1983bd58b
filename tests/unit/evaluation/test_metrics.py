"""Known answers of each metric."""

from __future__ import annotations

import pytest

from danlu.core.errors import RecipeError
from danlu.core.messages import LANGUAGES, load_room
from danlu.evaluation.items import Item, judged_by, load_questions
from danlu.evaluation.metrics import METRICS, metric_for


def item(**row: object) -> Item:
    return load_questions([{"question": "每天补贴多少？"} | row]).items[0]


def right(name: str, answer: str, asked: Item) -> bool:
    return METRICS.load(name)().score(answer, asked).right


def test_exact_wants_the_whole_answer() -> None:
    asked = item(answer="80元。", accept=["80 yuan"])
    assert right("exact", "８０元", asked)
    assert right("exact", "80 Yuan!", asked)
    assert not right("exact", "每天80元", asked)
    assert not right("exact", "", item(answer="。", value="x"))


def test_contains_takes_the_value_or_a_variant() -> None:
    asked = item(answer="出差每天80元", value="80元", accept=["80 yuan"])
    assert right("contains", "按规定，每天补贴八十元。", asked)
    assert right("contains", "It is 80 yuan.", asked)
    assert not right("contains", "每天180元。", asked)
    verdict = METRICS.load("contains")().score("每天80元，不过有时候90元", asked)
    assert verdict.details["other_numbers"] == ["90"]


def test_contains_wants_all_of_several_values() -> None:
    asked = item(answer="经理批准，3天内", value=["经理", "3天"])
    assert right("contains", "三天内由经理批准", asked)
    assert METRICS.load("contains")().score("由经理批准", asked).value == 0.5
    assert not right("contains", "由经理批准", asked)


def test_prefix_tells_yes_from_no() -> None:
    asked = item(answer="是的。在平台预订。", value="是的", match="prefix")
    assert metric_for(asked) == "prefix"
    assert right("prefix", "是的，在平台预订", asked)
    assert not right("prefix", "不是的，是的", asked)


def test_a_fluent_sentence_with_the_wrong_amount_is_wrong() -> None:
    reference = "员工在一线城市出差时，住宿费用每晚最多可以报销450元，超出部分由员工自己承担。"
    asked = item(answer=reference)
    assert metric_for(asked) == "char_f1"
    assert right("char_f1", reference, asked)
    assert not right("char_f1", reference.replace("450", "540"), asked)


def test_label_takes_the_first_class_named_and_counts_none_apart() -> None:
    asked = item(answer="positive", labels=["positive", "negative", "very positive"], metric="label")
    assert right("label", "Positive, not negative", asked)
    assert right("label", "It is not negative but positive", asked)
    assert not right("label", "very positive", asked)
    assert METRICS.load("label")().score("hmm", asked).details == {"parse_failure": True}


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        ("手册中没有提到这一点。", True),
        ("规定里没有写，请问人事部。", True),
        ("资料未说明，无法回答。", True),
        ("抱歉，我不清楚。", True),
        ("The handbook does not say; please ask HR.", True),
        ("This is not mentioned in the documents.", True),
        ("I don’t know.", True),
        ("There is no information about that.", True),
        ("密码是 1234。", False),
        ("You may bring a parrot.", False),
        ("手册没有提到，但一般是 500 元。", False),
        ("The handbook does not say, but it is usually 500 yuan.", False),
        ("没有提到。请打 8001 咨询人事。", True),
        ("", False),
    ],
)
def test_refusal_knows_not_stated_from_invention(answer: str, is_right: bool) -> None:
    assert right("refusal", answer, item(kind="unanswerable", answer="")) is is_right


def test_a_mistyped_metric_names_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        METRICS.load("contain")
    assert "contains" in str(caught.value)


def test_every_metric_of_ours_is_told_in_a_sentence() -> None:
    """`danlu list metrics` shows them."""
    own = {name for name, place in METRICS.places.items() if place.startswith("danlu.")}
    for language in LANGUAGES:
        assert {key.removeprefix("about_") for key in load_room("metrics", language)} == own


@pytest.mark.parametrize("name", sorted(METRICS.places))
def test_no_metric_trips_over_what_models_say(name: str) -> None:
    """Empty, thinking without an end, control tokens, other scripts, very long: a verdict, not an error."""
    asked = item(
        answer='{"amount": 80}', labels=["A", "B"], accept=["80元"], value="80元", forbid=["7391"],
        rules={"bullets": 3} if name == "format" else {},
    )  # fmt: skip
    judge = METRICS.load(name)()
    assert judge.name == name
    for answer in ["", " ", "<think>", "<|im_end|>", "\x00", "🙂", "ありがとう", "80" * 3000, "[" * 5000, "否" * 5000]:
        assert 0 <= judge.score(answer, asked).value <= 1


def test_the_recipes_metric_judges_what_names_none() -> None:
    rows = [
        {"question": "a?", "answer": "x"},
        {"question": "b?", "answer": "x", "match": "exact"},
        {"question": "c?", "answer": "x", "labels": ["x", "y"]},
        {"question": "d?", "kind": "unanswerable"},
        {"question": "e?", "answer": "x", "kind": "unanswerable", "control": True},
    ]
    items = load_questions(rows).items
    assert [metric_for(one) for one in judged_by(items, "rouge_l")] == [
        "rouge_l",
        "exact",
        "label",
        "refusal",
        "rouge_l",
    ]
    assert judged_by(items, None) == items
