"""Split: no twin, near-twin, shared question or document on two sides; stable, stratified, certified."""

from __future__ import annotations

import random

import pytest
from review_files import HOTELS, SHOPPING, reviews

from danlu.core.errors import DataError
from danlu.data.sample import Conversation, Document, Label, Message, Origin, Preference
from danlu.data.split import fold, fold_finely, split

HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 2000)]


def label(text: str, value: str = "1", line: int = 1) -> Label:
    return Label(text, value, Origin("r.csv", line))


def texts(count: int, seed: int = 0, length: int = 24) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(HAN, k=length)) for _ in range(count)]


def sides(result: object) -> dict[str, str]:
    return {str(sample.origin): name for name in ("train", "validation", "test") for sample in getattr(result, name)}


@pytest.mark.parametrize(
    ("one", "other", "is_twin"),
    [
        ("餐补3.5元", "餐补35元", False),
        ("5-10天", "510天", False),
        ("涨了5%", "涨了5", False),
        ("零下: -5度", "零下: 5度", False),
        ("C++ 怎么装", "C 怎么装", False),
        ("Ｃ＋＋怎么装？", "c++ 怎么装", True),
        ("5~10天", "5-10 天。", True),
        ("好的，谢谢！", "好的谢谢", True),
        ("It's  OK_now", "its ok now", True),
    ],
)
def test_twins_differ_in_marks_without_meaning_only(one: str, other: str, is_twin: bool) -> None:
    """Rows that differ in a decimal point were dropped as duplicates."""
    assert (fold_finely(one) == fold_finely(other)) is is_twin


def test_fold_sees_through_width_case_and_marks() -> None:
    assert fold("Ｈｏｔｅｌ 不错！！ ") == fold("hotel,不错") == "hotel不错"
    assert fold("???") == "???" != fold("!")


def test_parts_have_their_share_of_every_label() -> None:
    rows = [label(text, str(index % 4 == 0), index) for index, text in enumerate(texts(1000))]
    result = split(rows, test=0.1, validation=0.05, seed=1)
    assert (len(result.test), len(result.validation), len(result.train)) == (100, 50, 850)
    assert result.certificate["parts"]["test"]["labels"] == {"False": 75, "True": 25}
    assert sides(result) == sides(split(rows, test=0.1, validation=0.05, seed=1))
    assert sides(result) != sides(split(rows, test=0.1, validation=0.05, seed=2))


def test_rows_added_later_leave_others_where_they_were() -> None:
    rows = [label(text, line=index) for index, text in enumerate(texts(1000))]
    more = [label(text, line=5000 + index) for index, text in enumerate(texts(100, seed=9))]
    before, after = sides(split(rows, test=0.1, seed=1)), sides(split([*rows, *more], test=0.1, seed=1))
    assert sum(before[key] != after[key] for key in before) <= 20


def test_near_twins_stay_together() -> None:
    originals = texts(300, length=60)
    copies = [text[:30] + "改" + text[31:] for text in originals]
    rows = [label(text, line=index) for index, text in enumerate([*originals, *copies])]
    result = split(rows, test=0.3, seed=0)
    where = sides(result)
    assert all(where[f"r.csv:{index}"] == where[f"r.csv:{index + 300}"] for index in range(300))
    assert result.certificate["near_twins_across"] == 0 and result.certificate["max_similarity"]["value"] < 0.8
    assert result.certificate["groups"] == 300


def test_shared_questions_documents_and_groups_stay_together() -> None:
    base = texts(60)
    rows: list[object] = []
    for index, text in enumerate(base):
        for copy in range(3):
            origin = Origin(f"f{index}.pdf", copy)
            question, answer = Message("user", text), Message("assistant", f"{index}-{copy}")
            rows.append(Conversation((question, answer), Origin("c", len(rows))))
            rows.append(Preference((question,), (answer,), (answer,), Origin("p", len(rows))))
            rows.append(Document("".join(texts(1, seed=len(rows) + 1000)), origin))
            rows.append(Label("".join(texts(1, seed=len(rows) + 1000)), "x", Origin("l", len(rows)), group=f"g{index}"))
    result = split(rows, test=0.2, validation=0.2, seed=5)  # type: ignore[arg-type]
    certificate = result.certificate
    assert certificate["groups"] == 180
    assert certificate["questions_across"] == certificate["documents_across"] == certificate["twins_across"] == 0
    assert all(part["samples"] > 0 for part in certificate["parts"].values())


def test_rows_of_one_table_are_not_one_document() -> None:
    rows = [Document(text, Origin("corpus.jsonl.gz", index)) for index, text in enumerate(texts(50), 1)]
    assert split(rows, test=0.2).certificate["groups"] == 50


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(DataError, match=r"1\.1"):
        split([label("a")], test=0.6, validation=0.5)
    with pytest.raises(DataError, match="1 independent"):
        split([label("abc"), label("ABC")], test=0.5)


def test_nothing_held_out_and_nothing_at_all() -> None:
    assert len(split([label("a")], test=0).train) == 1
    assert split([], test=0.1).certificate["samples"] == 0


def test_the_hotel_file_that_hides_in_the_shopping_file() -> None:
    """6,866 of 7,350 hotel reviews have a twin among the shopping reviews."""
    rows = reviews(HOTELS, SHOPPING)
    shopping = {fold(row.text) for row in rows if row.origin.file == SHOPPING}
    assert sum(fold(row.text) in shopping for row in rows if row.origin.file == HOTELS) == 6866
    rows = [row for row in rows if row.tags["cat"] in (None, "酒店", "水果")]  # the others only make the test slow
    assert len(rows) > 15_000
    result = split(rows, test=0.1, seed=3407)
    assert not {fold(row.text) for row in result.test} & {fold(row.text) for row in result.train}
    certificate = result.certificate
    assert certificate["twins_across"] == certificate["near_twins_across"] == 0
    assert certificate["max_similarity"]["value"] < 0.8
    assert abs(len(result.test) / len(rows) - 0.1) < 0.001
