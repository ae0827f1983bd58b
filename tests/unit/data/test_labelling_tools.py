"""Label Studio and SuperAnnotate: what goes out comes back, and what people export is read in every version's shape."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import DataError
from danlu.data.formats import load_format
from danlu.data.labelling import label_studio, superannotate
from danlu.data.labelling.task import Judgement, Suggestion, Task, sample_of, settle, task_of
from danlu.data.ledger import Ledger
from danlu.data.sample import Conversation, Document, Label, Message, Origin, Preference

plain = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20).filter(str.strip)
suggestions = st.none() | st.builds(Suggestion, plain, st.floats(0, 1), plain.filter(lambda name: name != "danlu"))
turns = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), plain), max_size=3).map(tuple)
tasks = st.builds(
    Task, st.integers(0, 10**9).map(lambda n: f"s_{n:032x}"), plain, st.lists(plain, max_size=3, unique=True).map(tuple), turns,
    plain, st.none() | plain, suggestions, st.dictionaries(plain, st.floats(0, 1), max_size=3),
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(tasks, max_size=5))
def test_tasks_survive_label_studio(sent: list[Task]) -> None:
    assert label_studio.read_tasks(orjson.loads(orjson.dumps(label_studio.write_tasks(sent)))) == sent


@settings(max_examples=60)
@given(st.lists(tasks, min_size=1, max_size=5))
def test_tasks_survive_superannotate(sent: list[Task]) -> None:
    content = b"".join(orjson.dumps(item) + b"\n" for item in superannotate.write_items(sent, folder="f"))
    assert superannotate.read_tasks(superannotate.parse(content, "x.jsonl")) == sent


@settings(max_examples=60)
@given(tasks, plain)
def test_an_answer_survives_both_tools(task: Task, answer: str) -> None:
    """The task goes out, a person answers, the answer comes back with all that the row needs."""
    answer = task.choices[0] if task.choices else answer
    expected = (task.id, answer, task.text, task.turns, task.group, task.choices)

    (written,) = label_studio.write_tasks([task])
    region = label_studio.result(answer, is_choice=bool(task.choices), id="r1")
    exported = orjson.loads(
        orjson.dumps([{"id": 7, **written, "annotations": [{"id": 1, "result": [region], "completed_by": 3}]}])
    )
    (judged,) = label_studio.read_export(exported, Ledger(), "e.json")
    assert (judged.task, judged.value, judged.text, judged.turns, judged.group, judged.choices) == expected
    assert judged.who == "3"

    (item,) = superannotate.write_items([task])
    name = superannotate.CHOICE if task.choices else superannotate.ANSWER
    item["data"][name] = {"value": [answer] if task.choices else answer}
    item["metadata"] |= {"status": "Completed", "annotatorEmail": "li@example.com"}
    (judged,) = superannotate.read_export(superannotate.parse(orjson.dumps([item]), "e.json"), Ledger(), "e.json")
    assert (judged.task, judged.value, judged.text, judged.turns, judged.group, judged.choices) == expected
    assert judged.who == "li@example.com"


def test_predictions_name_the_controls_of_the_config() -> None:
    task = Task("s_1", "味道不错", ("好", '<b>"坏"'), suggestion=Suggestion("好", 0.7, "m-1"))
    (written,) = label_studio.write_tasks([task])
    (prediction,) = written["predictions"]
    assert prediction["model_version"] == "m-1" and prediction["score"] == 0.7
    (region,) = prediction["result"]
    root = ElementTree.fromstring(label_studio.config(task.choices))
    (control,) = root.iter("Choices")
    (shown,) = root.iter("Text")
    assert region["from_name"] == control.get("name") and region["to_name"] == control.get("toName") == shown.get(
        "name"
    )
    assert shown.get("value") == "$text" and "text" in written["data"]
    assert [choice.get("value") for choice in control] == list(task.choices)
    (area,) = ElementTree.fromstring(label_studio.config(())).iter("TextArea")
    assert area.get("name") == label_studio.ANSWER


DATA = {"text": "味道不错", "danlu_id": "s_1", "choices": ["好", "差"]}


def region(*values: str) -> dict:
    return {"id": "x", "from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": list(values)}}


@pytest.mark.parametrize(
    "task",
    [
        {
            "id": 1,
            "data": DATA,
            "annotations": [{"result": [region("好")], "completed_by": {"id": 2, "email": "a@b.example"}}],
        },
        {"id": 1, "data": DATA, "completions": [{"result": [region("好")], "completed_by": "a@b.example"}]},  # 0.x
        {"id": 1, **DATA, "label": "好", "annotator": "a@b.example", "annotation_id": 4, "lead_time": 2.5},  # JSON_MIN
        {"id": 1, **DATA, "label": {"choices": ["好"]}, "annotator": "a@b.example", "annotation_id": 4},
        {"id": 1, **DATA, "sentiment": "好", "annotator": "a@b.example", "annotation_id": 4},  # another control's name
    ],
    ids=["1.x", "0.x", "min", "min-object", "min-other-name"],
)
def test_every_version_of_label_studio_is_read(task: dict) -> None:
    for value in ([task], task):
        (judged,) = label_studio.read_export(value, Ledger(), "e.json")
        assert (judged.task, judged.value, judged.text, judged.who) == ("s_1", "好", "味道不错", "a@b.example")


@pytest.mark.parametrize(
    ("annotation", "data", "reason"),
    [
        ({"result": [region("好")], "was_cancelled": True}, DATA, "label_skipped"),
        ({"result": []}, DATA, "label_empty"),
        ({"result": [region("好", "差")]}, DATA, "label_several"),
        ({"result": [{"type": "labels", "value": {"start": 1, "end": 2, "labels": ["人名"]}}]}, DATA, "label_empty"),
        ({"result": [region("好")]}, {"a": "x", "b": "y"}, "label_no_text"),
        ("not an object", DATA, "label_unreadable"),
    ],
)
def test_what_is_no_label_ends_in_the_ledger(annotation: object, data: dict, reason: str) -> None:
    ledger = Ledger()
    assert label_studio.read_export([{"id": 1, "data": data, "annotations": [annotation]}], ledger, "e.json") == []
    assert [entry.reason for entry in ledger.rejects] == [reason]
    ledger.check()


def test_a_task_that_nobody_labelled_is_no_row_and_no_fault() -> None:
    ledger = Ledger()
    assert label_studio.read_export([{"id": 1, "data": DATA, "annotations": []}], ledger, "e.json") == []
    item = superannotate.write_items([Task("s_1", "x", ("a", "b"))])[0]
    assert superannotate.read_export([item], ledger, "e.json") == [] and ledger.num_read == 0


@pytest.mark.parametrize("value", ["text", 3, [1, 2], [{"foo": 1}], [[]]])
def test_other_json_is_refused_as_an_export(value: object) -> None:
    with pytest.raises(DataError) as failed:
        label_studio.read_export(value, Ledger(), "e.json")
    assert failed.value.key == "select.not_an_export"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[1]", b'{"a": 1}', b'{"metadata": 3}'])
def test_other_files_are_refused_as_superannotate(content: bytes) -> None:
    with pytest.raises(DataError) as failed:
        superannotate.parse(content, "e.json")
    assert failed.value.key == "select.not_an_export"


@settings(max_examples=150)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["data", "annotations", "result", "value", "choices", "text", "type",
                                                       "completed_by", "metadata", "instances", "tags", "label", "status",
                                                       "turns", "annotator"]), inner, max_size=4), max_leaves=20))  # fmt: skip
def test_no_export_ends_in_a_traceback(value: object) -> None:
    for read in (
        lambda: label_studio.read_export([value], Ledger(), "e.json"),
        lambda: superannotate.read_export(
            superannotate.parse(json.dumps(value).encode(), "e.json"), Ledger(), "e.json"
        ),
    ):
        try:
            read()
        except DataError as error:
            assert error.key == "select.not_an_export"


def test_annotations_of_a_text_project_find_their_text_again() -> None:
    item = {
        "metadata": {"name": "s_1.txt", "status": "Completed", "lastAction": {"email": "q@example.com", "timestamp": 1}},
        "instances": [{"type": "tag", "classId": 3, "className": "差", "attributes": []}], "tags": [], "freeText": "",
    }  # fmt: skip
    ledger = Ledger()
    (judged,) = superannotate.read_export(
        [item], ledger, "e.json", sent={"s_1": Task("s_1", "太慢", ("好", "差"), group="g")}
    )
    assert (judged.task, judged.value, judged.text, judged.who, judged.group) == (
        "s_1",
        "差",
        "太慢",
        "q@example.com",
        "g",
    )
    assert superannotate.read_export([item], ledger, "e.json") == []
    assert [entry.reason for entry in ledger.rejects] == ["label_no_text"]


def test_rows_carry_the_person_as_their_provenance() -> None:
    judged = Judgement("s_1", "好", "味道不错", (), "li@example.com", "2026-01-02T03:04:05Z", "g1", ("好", "差"))
    sample = sample_of(judged, Origin("export.json", 4), "label-studio")
    assert isinstance(sample, Label) and sample.label == "好" and sample.group == "g1"
    assert sample.tags == {"made_by": "human", "tool": "label-studio", "parents": ["s_1"], "annotator": "li@example.com",
                           "labelled_at": "2026-01-02T03:04:05Z"}  # fmt: skip
    row = load_format("label").write(sample)
    assert load_format("label").parse(row, sample.origin, []) == sample


def test_a_written_answer_becomes_a_conversation() -> None:
    talk = Conversation(
        (Message("system", "简短"), Message("user", "几天？"), Message("assistant", "旧答案")), Origin("a", 1)
    )
    task = task_of(talk)
    assert task.turns == (("system", "简短"), ("user", "几天？"))
    judged = Judgement(task.id, "五天", task.text, task.turns)
    sample = sample_of(judged, Origin("e.json", 1), "label-studio")
    assert isinstance(sample, Conversation)
    assert [(turn.role, turn.content) for turn in sample.messages] == [*task.turns, ("assistant", "五天")]


def test_every_kind_of_row_can_be_asked_about() -> None:
    origin = Origin("a", 1)
    pair = Preference((Message("user", "问"),), (Message("assistant", "好"),), (Message("assistant", "坏"),), origin)
    for sample in (pair, Document("正文", origin), Label("评语", "好", origin)):
        assert task_of(sample).text in ("问", "正文", "评语")


def test_people_are_settled_by_majority_and_a_tie_is_told() -> None:
    said = [Judgement("s_1", "好", who="a"), Judgement("s_1", "差", who="b"), Judgement("s_1", "好", who="c"),
            Judgement("s_2", "好", who="a"), Judgement("s_2", "差", who="b")]  # fmt: skip
    ledger = Ledger()
    ledger.use(len(said))
    (one,) = settle(said, ledger, "e.json")
    assert (one.task, one.value, one.who) == ("s_1", "好", "a, c")
    assert [entry.reason for entry in ledger.rejects] == ["label_tie", "label_tie"]
    ledger.check()
