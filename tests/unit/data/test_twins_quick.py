"""Compiled loops give what the numpy code gives, bit by bit; without numba, and on little data, nobody waits for them."""

from __future__ import annotations

import csv
import gzip
import io
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import pytest
from chat_files import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.sample import Conversation, Document, Feedback, Label, Message, Origin, Preference, Sample
from danlu.data.split import split_columns
from danlu.data.twins import KEEP, Decision, compiled, decide, signatures
from danlu.data.twins.compiled import COLD_UNITS, WARM_UNITS, Purse
from danlu.data.twins.folding import fold_all
from danlu.data.twins.groups import in_order, ranked
from danlu.data.twins.likeness import Texts, differ_in_figures_alone, jaccard
from danlu.data.twins.linking import _repeated, _runs
from danlu.data.twins.overlap import answers_in

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
@settings(max_examples=150)
def test_columns_are_equal_whatever_is_said(rows: list[Sample]) -> None:
    assert_same(rows, [f"s_{number}" for number in range(len(rows))])


@given(st.lists(WORDS, max_size=8))
@settings(max_examples=300)
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


@given(st.lists(st.text("ab12", min_size=1, max_size=30), min_size=2, max_size=12), st.sampled_from([3, 5]))
@settings(max_examples=150)
def test_pairs_are_compared_alike(texts: list[str], gram: int) -> None:
    found = Texts([signatures([Document(text, ORIGIN) for text in texts])])
    left, right = (side.ravel() for side in np.meshgrid(np.arange(len(texts)), np.arange(len(texts))))
    plain, quick = (jaccard(found, left, right, gram=gram, quick=way) for way in (False, True))
    assert plain.dtype == quick.dtype and (plain == quick).all()
    forms, quickly = (differ_in_figures_alone(found, left, right, quick=way) for way in (False, True))
    assert (forms == quickly).all()
    bare = ["".join(sign for sign in text if not sign.isdigit()) for text in texts]
    assert forms.tolist() == [
        bare[one] == bare[other] and texts[one] != texts[other] and _digits(texts[one]) != _digits(texts[other])
        for one, other in zip(left, right, strict=True)
    ]


def _digits(text: str) -> str:
    return "".join(sign for sign in text if sign.isdigit())


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3) | st.integers(2**63, 2**63 + 3)), max_size=60))
@settings(max_examples=200)
def test_one_sort_gives_the_order_of_many(pairs: list[tuple[int, int]]) -> None:
    codes, keys = np.array([pair[0] for pair in pairs], np.int64), np.array([pair[1] for pair in pairs], np.uint64)
    assert in_order(keys).tolist() == np.argsort(keys, kind="stable").tolist()
    assert in_order(keys, codes).tolist() == np.lexsort((keys, codes)).tolist()
    small = (keys & np.uint64(3)).astype(np.int64)
    assert ranked(codes, small).tolist() == np.lexsort((small, codes)).tolist()
    wide = codes << 60
    assert ranked(wide, wide).tolist() == np.argsort(wide, kind="stable").tolist()


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(2**27, 2**29))
@settings(max_examples=150)
def test_runs_of_equal_keys_are_those_of_a_dictionary(numbers: list[int], factor: int) -> None:
    keys = np.array([number * factor % 2**32 for number in numbers], np.uint32)
    members = 7 * np.arange(len(keys))
    wanted = [members[keys == key].tolist() for key in sorted(set(keys.tolist())) if (keys == key).sum() > 1]
    for own, of in (
        (keys, members),
        (keys[_repeated(keys)], members[_repeated(keys)]),
        (keys.astype(np.uint64), members),
    ):
        found, run = _runs(own, of)
        assert [found[run == number].tolist() for number in range(int(run.max(initial=-1)) + 1)] == wanted


def _family(seed: int) -> list[Sample]:
    """Chats and documents of all lengths, many of them edited copies, some of one form, of two sizes of grams."""
    draw = random.Random(seed)
    signs = [chr(code) for code in range(0x4E00, 0x4E00 + 1500)]
    rows: list[Sample] = []
    form = "".join(draw.choices(signs, k=80))
    known = ["".join(draw.choices(signs, k=draw.choice([8, 40, 300, 480, 520, 700]))) for _ in range(60)]
    for number in range(600):
        text = draw.choice(known) if number % 4 else form + str(draw.randrange(40))
        told = list(text)
        for _ in range(draw.choice([0, 0, 1, 4, 30])):
            told[draw.randrange(len(told))] = draw.choice([*signs[:5], "3"])
        answer, origin = "".join(told), Origin("rows.jsonl", number)
        turns = (Message("user", draw.choice(known)[:60]), Message("assistant", answer))
        rows.append(Conversation(turns, origin) if draw.random() < 0.7 else Document(answer, origin))
    return rows


def _judged(rows: Sequence[Sample], size: int) -> tuple[Decision, np.ndarray, dict[str, object]]:
    shards = [signatures(rows[at : at + size]) for at in range(0, len(rows), size)]
    decision = decide(shards)
    part, told = split_columns(shards, decision, kept=decision.verdict == KEEP, test=0.2, validation=0.1, seed=3)
    return decision, part, told


@pytest.mark.parametrize("seed", range(3))
def test_twins_and_split_are_the_same_by_loops_and_in_any_shards(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _family(seed)
    monkeypatch.setattr(Purse, "is_worth", lambda self, num_units: False)
    plain, part, told = _judged(rows, len(rows))
    assert plain.counts["near"] > 50 and plain.counts["compared"] > 500
    monkeypatch.setattr(Purse, "is_worth", lambda self, num_units: True)
    quick, own_part, own_told = _judged(rows, 110)
    for name in ("verdict", "twin", "similarity", "cluster"):
        assert (getattr(plain, name) == getattr(quick, name)).all(), name
    assert (plain.conflicts, plain.largest, plain.counts) == (quick.conflicts, quick.largest, quick.counts)
    assert (part == own_part).all() and told == own_told


@pytest.mark.parametrize("is_quick", [False, True])
def test_an_answer_stands_in_one_text_and_not_across_two(is_quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grams that began in one row and ended in the next were counted, so the figure hung on the order of rows."""
    monkeypatch.setattr(Purse, "is_worth", lambda self, num_units: is_quick)
    draw = random.Random(5)
    rows: list[Sample] = [Document("".join(draw.choices("abc", k=draw.randrange(60))), ORIGIN) for _ in range(300)]
    held = ["".join(draw.choices("abc", k=20)) for _ in range(20)] + [rows[7].text + rows[8].text]  # type: ignore[union-attr]
    rows += [Conversation((Message("user", "q"), Message("assistant", text)), ORIGIN) for text in held]
    rows += [Document("".join(draw.choices("abc", k=700_000)), ORIGIN), Document("ab", ORIGIN)]
    is_held = np.zeros(len(rows), bool)
    is_held[300 : 300 + len(held)] = True
    shards = [signatures(rows[:150], quick=False), signatures(rows[150:], quick=False)]
    asked, shares = answers_in(shards, Texts(shards), is_held, ~is_held)
    grams = {
        row.text[at : at + 13] for row in rows if isinstance(row, Document) for at in range(len(row.text) - 12)
    }  # fmt: skip
    assert asked.tolist() == np.flatnonzero(is_held).tolist()
    for text, share in zip(held, shares, strict=True):
        own = [text[at : at + 13] for at in range(len(text) - 12)]
        assert share == pytest.approx(sum(gram in grams for gram in own) / len(own))


def test_machine_code_is_found_wherever_numba_keeps_it(tmp_path: Path) -> None:
    """A package that root installed: numba writes to the user's folder, and every process took the cache for empty."""
    pytest.importorskip("numba")
    told = """
import numpy
from danlu.data.twins.compiled import COLD_UNITS, WARM_UNITS, Purse, is_kept
before = Purse().is_worth(WARM_UNITS)
from danlu.data.twins.loops_overlap import bits_of
bits_of(numpy.zeros(1, numpy.uint64))
is_kept.cache_clear()
print(before, Purse().is_worth(WARM_UNITS), Purse().is_worth(WARM_UNITS - 1), Purse().is_worth(COLD_UNITS))
"""
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    out = subprocess.run([sys.executable, "-c", told], env=env, capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "True", "False", "True"]


def test_without_numba_nothing_is_lost_but_time() -> None:
    told = """
import sys
sys.modules["numba"] = None
from danlu.data.twins.compiled import COLD_UNITS, Purse
from danlu.data.twins import signatures
from danlu.data.sample import Document, Origin
assert not Purse().is_worth(2 * COLD_UNITS)
print(signatures([Document("床前明月光，疑是地上霜。" * 9, Origin("a", 1))])["exact"][0].tolist())
"""
    out = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout
    own = signatures([Document("床前明月光，疑是地上霜。" * 9, Origin("a", 1))])["exact"][0].tolist()
    assert out.strip() == str(own)
