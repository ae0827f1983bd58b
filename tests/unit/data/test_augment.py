"""Variants ask the same in other words: numbers, names, negations and labels stay, and only what was asked changes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import DataError, RecipeError
from danlu.data.augment import AUGMENTERS, augment, varying
from danlu.data.augment.eda import synonyms, words
from danlu.data.identity import sample_id
from danlu.data.sample import Conversation, Document, Label, Message, Origin, Preference, Sample
from danlu.data.synthesis.facts import figures
from danlu.data.synthesis.wording import fault_of_wording, num_negations
from danlu.recipe.synthesis import AugmentSection
from teacher_kit import READING, asked, serving

HERE = Origin("qa.jsonl", 1)
CLEARED = {"level": "internal", "masked": True}


def chat(question: str, answer: str, **tags: Any) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), HERE, group="g", tags=CLEARED | tags)


ROWS = [
    chat("请问员工立即购买3楼的电脑需要通知王经理吗？", "不需要通知，按《采购制度》办理。"),
    chat("How often do employees of Ledgerly have to inform 2 colleagues immediately?", "Twice a year."),
    Label("这家宾馆非常干净，可是同事不喜欢。", "正面", HERE, tags=CLEARED),
    Label("The hotel was really clean, but we did not like the restaurant.", "negative", HERE, tags=CLEARED),
    Preference((Message("user", "怎样更换经常使用的电脑？"),), (Message("assistant", "先申请。"),), (Message("assistant", "随便。"),), HERE,
               tags=CLEARED),
    Document("公司立即通知员工。", HERE),
]  # fmt: skip


def text_of(sample: Any) -> str:
    return (
        sample.text
        if isinstance(sample, Label)
        else (sample.prompt if isinstance(sample, Preference) else sample.messages)[0].content
    )


def test_nothing_is_varied_unless_asked_for() -> None:
    assert augment(ROWS, AugmentSection(), None, reading=READING) == []
    with pytest.raises(RecipeError, match="eda"):
        augment(ROWS, AugmentSection(methods=("edda",)), None, reading=READING)
    for name in ("paraphrase", "back-translation"):
        with pytest.raises(DataError) as caught:
            augment(ROWS, AugmentSection(methods=(name,)), None, reading=READING)
        assert caught.value.key == "synthesis.needs_teacher"
    assert AUGMENTERS.names() == ["back-translation", "eda", "paraphrase"]


def test_samples_are_read_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All train rows lay in memory, several times, for a few variants of each."""
    rows = [*ROWS, chat("员工可以立即申请2台电脑吗？", "可以。"), *ROWS[:2]]
    section = AugmentSection(methods=("eda",), copies=2, strength=0.3)
    whole = augment(rows, section, None, reading=READING)
    monkeypatch.setattr(varying, "_AT_ONCE", 2)
    held: list[int] = []

    class Opened:
        def __iter__(self) -> Iterator[Sample]:
            held.append(0)
            yield from rows

    assert augment(Opened(), section, None, reading=READING) == whole and len(whole) > 3
    assert len(held) == 2, "once for what is there, once for the method"


def test_eda_changes_the_question_alone() -> None:
    made = augment(ROWS, AugmentSection(methods=("eda",), copies=2, strength=0.3), None, reading=READING)
    assert made == augment(ROWS, AugmentSection(methods=("eda",), copies=2, strength=0.3), None, reading=READING)
    parents = {sample_id(row): row for row in ROWS}
    assert {sample.tags["parents"][0] for sample in made} == {sample_id(row) for row in ROWS[:5]}, "no document"
    assert len({sample_id(sample) for sample in made} | set(parents)) == len(made) + len(parents)
    for sample in made:
        parent = parents[sample.tags["parents"][0]]
        old, new = text_of(parent), text_of(sample)
        assert old != new and sample.tags["made_by"] == "augment" and sample.tags["augment"] == "eda"
        assert sample.group == parent.group and sample.tags["level"] == "internal" and sample.tags["masked"]
        assert sorted(figures(READING.fold(old))) == sorted(figures(READING.fold(new)))
        assert num_negations(old) == num_negations(new)
        for name in ("3楼", "王经理", "Ledgerly", "通知"):  # figure, names, and a word of the answer
            assert (name in old) == (name in new), new
        if isinstance(sample, Conversation):
            assert sample.messages[1:] == parent.messages[1:]  # type: ignore[union-attr]
        if isinstance(sample, Preference):
            assert (sample.chosen, sample.rejected) == (parent.chosen, parent.rejected)  # type: ignore[union-attr]
        if isinstance(sample, Label):
            assert sample.label == parent.label  # type: ignore[union-attr]


def company_questions() -> list[str]:
    path = Path(str(resources.files("danlu.assets") / "company" / "qa.jsonl"))
    return [json.loads(line)["messages"][0]["content"] for line in path.read_text("utf-8").splitlines()][::7]


def test_no_fact_of_the_company_s_questions_is_touched() -> None:
    rows = [
        Conversation((Message("user", q), Message("assistant", "嗯")), Origin("qa", n))
        for n, q in enumerate(company_questions())
    ]
    made = augment(rows, AugmentSection(methods=("eda",), strength=0.5), None, reading=READING)
    assert len(made) > 0.2 * len(rows)
    parents = {sample_id(row): row.messages[0].content for row in rows}
    for sample in made:
        old, new = parents[sample.tags["parents"][0]], sample.messages[0].content  # type: ignore[union-attr]
        assert re.findall(r"[A-Z0-9]\w*\d\w*|\d+", old) == re.findall(r"[A-Z0-9]\w*\d\w*|\d+", new)
        assert fault_of_wording(old, new, READING) is None


def test_the_tables_are_ours_and_hold_no_facts() -> None:
    for language in ("zh", "en"):
        table = synonyms(language)
        assert len(table) > 80
        for word, group in table.items():
            assert word in group and len(group) > 1 and not re.search(r"\d", word)
            assert num_negations(word) == 0 and word not in ("不", "没有", "not", "never")


@settings(max_examples=60)
@given(st.text(alphabet="我们立即购买3台电脑不，。 abC要", max_size=30))
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(words(text)) == text
    sample = Label(text, "x", HERE)
    for made in augment([sample], AugmentSection(methods=("eda",), strength=0.5), None, reading=READING):
        assert fault_of_wording(text, text_of(made), READING) is None


WORDINGS = {
    ROWS[0].messages[0].content: ["员工在3楼立即购买电脑，需要通知王经理吗？", "员工在5楼立即购买电脑，需要通知王经理吗？", "员工购买电脑不需要通知王经理吧，3楼？"],
    ROWS[2].text: ["这家宾馆十分整洁，可是同事不喜欢。", "这家宾馆又脏又乱，同事都讨厌它，不推荐。"],
}  # fmt: skip


def reworder(body: dict[str, Any]) -> str:
    kind, user = asked(body), body["messages"][-1]["content"]
    if kind == "classify":
        return json.dumps({"label": "负面" if "脏" in user else "正面"}, ensure_ascii=False)
    texts = next((found for text, found in WORDINGS.items() if text in user), [])
    return json.dumps({"texts": texts}, ensure_ascii=False)


def test_a_teacher_s_wordings_are_held_to_facts_and_labels(tmp_path: Path) -> None:
    rows = [*ROWS, Label("菜太咸了。", "负面", HERE, tags=CLEARED)]
    with serving(reworder) as server:
        made = augment(
            rows, AugmentSection(methods=("paraphrase",), copies=3), server.teacher(tmp_path), reading=READING
        )
        asked_labels = [body for body in server.bodies if asked(body) == "classify"]
    assert [text_of(sample) for sample in made] == [WORDINGS[text_of(ROWS[0])][0], WORDINGS[text_of(ROWS[2])][0]]
    assert (asked_labels and "正面 / 负面" in asked_labels[0]["messages"][-1]["content"]) or "负面" in str(asked_labels)


def translator(body: dict[str, Any]) -> str:
    text = body["messages"][-1]["content"]
    there = {"怎样更换经常使用的电脑？": "How do I replace a computer that is used often?"}
    back = {there["怎样更换经常使用的电脑？"]: "经常使用的电脑应当怎样替换？"}
    if "Chinese" in body["messages"][0]["content"] or "中文" in body["messages"][0]["content"]:
        return back.get(text, "完全是另外一回事，与原文毫无关系。")
    return there.get(text, "Something else entirely.")


def test_there_and_back_again(tmp_path: Path) -> None:
    with serving(translator) as server:
        made = augment(ROWS, AugmentSection(methods=("back-translation",)), server.teacher(tmp_path), reading=READING)
    assert [text_of(sample) for sample in made] == ["经常使用的电脑应当怎样替换？"]
    assert made[0].tags["augment"] == "back-translation"


def test_what_may_not_leave_is_not_varied_by_a_teacher_outside(tmp_path: Path) -> None:
    with serving(reworder) as server:
        teacher = server.teacher(tmp_path)
        teacher.is_external = True
        secret = chat("员工立即购买电脑的流程是怎样的？", "保密", level="restricted")
        assert augment([secret], AugmentSection(methods=("paraphrase",)), teacher, reading=READING) == []
        with pytest.raises(DataError) as caught:
            augment([Label("立即通知", "x", HERE)], AugmentSection(methods=("paraphrase",)), teacher, reading=READING)
        assert caught.value.key == "synthesis.not_masked" and not server.bodies
