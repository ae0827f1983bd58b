"""Compiled loops give what the numpy code gives, bit by bit; without numba, and on little data, nobody waits for them."""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections.abc import Sequence

import numpy as np
import orjson
import pytest
from chat_files import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.sample import Conversation, Document, Feedback, Label, Message, Origin, Preference, Sample
from danlu.data.twins import compiled, signatures
from danlu.data.twins.compiled import COLD_UNITS, WARM_UNITS, Purse
from danlu.data.twins.folding import fold_all

pytest.importorskip("numba", reason="the loops are optional")
TROUBLE = "ab12９９+-#%.…， ：\n\t_Ａ好的é\u0301ß㎡①½😀👍🏽𠀀𝐀🄰٣가각ﾞﬁ\u200bİ\ud83d\ude00\ud840臺灣"
WORDS = st.text(st.sampled_from(TROUBLE), max_size=14) | st.text(max_size=8) | st.text("甲乙12.-", max_size=40)
ORIGIN = Origin("rows.jsonl", 1)


def assert_same(rows: Sequence[Sample], ids: Sequence[str] | None = None) -> None:
    plain, quick = signatures(rows, ids, quick=False), signatures(rows, ids, quick=True)
    assert list(plain) == list(quick)
    for name, column in plain.items():
        assert column.dtype == quick[name].dtype and column.shape == quick[name].shape, name
        assert (column == quick[name]).all(), name


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    question, answer, other = draw(WORDS), draw(WORDS) * draw(st.sampled_from([1, 1, 30, 120])), draw(WORDS)
    asked, answered = Message("user", question), Message("assistant", answer)
    system = (Message("system", other),) if draw(st.booleans()) else ()
    kind = draw(st.sampled_from(["chat", "turns", "preference", "feedback", "label", "document"]))
    match kind:
        case "chat":
            return Conversation((*system, asked, answered), ORIGIN)
        case "turns":
            return Conversation((*system, asked, answered, Message("user", other), answered), ORIGIN, group=other)
        case "preference":
            return Preference((asked,), (answered,), (Message("assistant", other),), ORIGIN)
        case "feedback":
            return Feedback((asked, answered), draw(st.booleans()), ORIGIN)
        case "label":
            return Label(answer, other, ORIGIN, tags={"flags": ["truncated"]})
    return Document(answer, Origin("a.pdf", 1, page=1), tags={"parents": [question]})


@given(st.lists(samples(), max_size=12))
@settings(max_examples=150, deadline=None)
def test_columns_are_equal_whatever_is_said(rows: list[Sample]) -> None:
    assert_same(rows, [f"s_{number}" for number in range(len(rows))])


@given(st.lists(WORDS, max_size=8))
@settings(max_examples=300, deadline=None)
def test_folds_are_equal_whatever_is_written(texts: list[str]) -> None:
    plain, quick = fold_all(texts), fold_all(texts, quick=True)
    for one, other in ((plain.coarse, quick.coarse), (plain.fine, quick.fine)):
        assert one.tobytes() == other.tobytes()
    assert (plain.coarse_at == quick.coarse_at).all() and (plain.fine_at == quick.fine_at).all()


def test_every_character_is_folded_alike() -> None:
    texts = ["a" + chr(code) + "1" + chr(code) + "2가" for code in range(0x110000) if code % 7 == 0]
    plain, quick = fold_all(texts), fold_all(texts, quick=True)
    assert plain.fine.tobytes() == quick.fine.tobytes() and plain.coarse.tobytes() == quick.coarse.tobytes()


def test_texts_of_all_lengths_are_signed_and_hashed_alike() -> None:
    """Blocks of digests end every 64 units, grams change at 500 and 715, heads are cut anywhere."""
    draw = random.Random(1)
    text = "".join(draw.choices("的一是了我不人在他有这个上们来到时大地为子中你说生国年", k=900))
    rows: list[Sample] = []
    for length in [*range(80), *range(120, 132), *range(180, 200), *range(490, 512), *range(700, 730), 900]:
        rows.append(Document(text[:length], ORIGIN))
        turns = (Message("user", text[: length // 2]), Message("assistant", text[length // 2 : length]))
        rows.append(Conversation(turns, ORIGIN))
    assert_same(rows)


def test_rows_of_real_files_are_signed_alike() -> None:
    path = SHARED / "reviews_zh" / "online_shopping_10_cats.csv.gz"
    chats = SHARED / "instruct" / "alpaca_zh_en_12k.jsonl.gz"
    if not path.is_file() or not chats.is_file():
        pytest.skip(f"{path} or {chats} is not here")
    with gzip.open(path, "rb") as file:
        reader = csv.DictReader(io.TextIOWrapper(file, "utf-8"))
        rows: list[Sample] = [Label(row["review"] or "", row["label"], ORIGIN) for row in list(reader)[::4]]
    for line in gzip.decompress(chats.read_bytes()).splitlines()[::2]:
        asked, *_, told = (value for value in orjson.loads(line).values() if isinstance(value, str))
        rows.append(Conversation((Message("user", asked), Message("assistant", told)), ORIGIN))
    assert len(rows) > 15_000
    assert_same(rows)


def test_little_data_does_not_wait_for_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "is_kept", lambda: False)
    purse = Purse()
    some = COLD_UNITS // 4
    assert [purse.is_worth(some) for _ in range(5)] == [False, False, False, True, True]
    monkeypatch.setattr(compiled, "is_kept", lambda: True)
    assert not Purse().is_worth(WARM_UNITS - 1) and Purse().is_worth(WARM_UNITS)
    monkeypatch.setattr(compiled, "has_numba", lambda: False)
    assert not purse.is_worth(10 * COLD_UNITS)
    assert np.array_equal(signatures([])["start"], [0])
