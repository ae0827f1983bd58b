"""Cleaners over many rows at once do what the plain rules do to each row by itself."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence

import numpy as np
import orjson
import pytest
from chat_files import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

import danlu.data.cleaners.boilerplate as boilerplate
import danlu.data.cleaners.injection as injection
import danlu.data.cleaners.normalise as normalise
import danlu.data.cleaners.symbols as symbols
from danlu.data.cleaners import CLEANERS
from danlu.data.joined import PAGE_ROWS, TELLING, Texts
from danlu.data.ledger import Ledger
from danlu.data.sample import Conversation, Document, Message, Origin, Sample
from danlu.data.sources import read
from danlu.data.stage import Fate, Outcome
from danlu.data.texts import texts_of, with_texts

HERE = Origin("a.jsonl", 1)
PARTS = [
    *"a 中 é e\u0301 ａ 。 \n \r \r\n \u2028 \x85 \t \x00 \x7f \u00ad \u200b \u200c \u200d \u202e \ufeff 👨\u200d👩 🏴 \U000e0067".split(
        " "
    ),
    *"\U000e007f \U000e0001 \ud800 \udc00 가 \u1100\u1161 が か\u3099 豈 Å ﬁ \ufffd 锟斤拷 ¼ \u0f71".split(" "), " ",
    *"& ? [ ] ! ( ) : ; = nbsp; amp; ensp; thinsp; utm_a=1 spm=2 fbclid= from_source=x 图片 表情 image ımage İMAGE photo PHOTO".split(
        " "
    ),
    *"data:image/png;base64, DATA:image/x;base64, ![x](data: https://a.b/c ``` < > 点击展开 阅读全文 版权所有 Read more".split(" "),
    "A" * 64, "click here to read", "all rights reserved.",
]  # fmt: skip
TEXTS = st.lists(st.lists(st.sampled_from(PARTS), max_size=7).map("".join), min_size=1, max_size=3)
ROWS = st.lists(
    st.builds(lambda turns: Conversation(tuple(Message("user", turn) for turn in turns), HERE), TEXTS)
    | st.builds(lambda texts: Document(texts[0], HERE, texts[-1]), TEXTS),
    max_size=7,
)


def plainly_normalised(sample: Sample) -> Outcome:
    """The reference: every text mended, whether or not it needs it."""
    fates: list[Fate] = []
    fresh = normalise._tidied(texts_of(sample), fates)
    return with_texts(sample, fresh), tuple(fates)


def plainly_mended(sample: Sample) -> Outcome:
    found = [boilerplate._mended(text, isinstance(sample, Document)) for text in texts_of(sample)]
    num_lines, num_bits = sum(lines for _, lines, _ in found), sum(bits for *_, bits in found)
    fates = [Fate("change", "boilerplate", {"num": num_lines})] if num_lines else []
    fates += [Fate("change", "residue", {"num": num_bits})] if num_bits else []
    return with_texts(sample, [text for text, *_ in found]), tuple(fates)


CASES: list[tuple[str, Callable[[Sample], Outcome]]] = [
    ("normalise", plainly_normalised),
    ("boilerplate", plainly_mended),
]


def real_rows() -> list[Sample]:
    rows: list[Sample] = []
    for name, num in (("instruct/alpaca_zh_demo.json.gz", 900), ("instruct/alpaca_en_demo.json.gz", 900),
                      ("instruct/sharegpt_zh_1k.jsonl.gz", 300), ("medical_qa/huatuo_liver_cancer.json.gz", 600),
                      ("reviews_zh/waimai_10k.csv.gz", 900), ("finance_qa/disc_fin_consulting_part.json.gz", 300)):  # fmt: skip
        if (SHARED / name).is_file():
            rows += [row for row, _ in zip(read([SHARED / name], Ledger()), range(num), strict=False)]
    for path in sorted((SHARED / "documents").glob("**/*.md")) + sorted((SHARED / "documents").glob("**/*.txt")):
        rows += [row for row, _ in zip(read([path], Ledger()), range(50), strict=False)]
    return rows


@pytest.mark.parametrize(("name", "plainly"), CASES)
@settings(max_examples=300)
@given(rows=ROWS)
def test_any_rows_come_to_the_same_at_once_and_one_by_one(
    name: str, plainly: Callable[[Sample], Outcome], rows: list[Sample]
) -> None:
    assert CLEANERS.load(name)()(rows) == [plainly(row) for row in rows]


@pytest.mark.parametrize(("name", "plainly"), CASES)
def test_real_rows_come_to_the_same_at_once_and_one_by_one(name: str, plainly: Callable[[Sample], Outcome]) -> None:
    rows = real_rows()
    if len(rows) <= PAGE_ROWS:
        pytest.skip("no shared data")
    stage = CLEANERS.load(name)()
    told = stage.touch(Texts(rows))
    assert [*told] == sorted(told)
    for row, sample in enumerate(rows):
        fresh, fates = plainly(sample)
        assert told.get(row, (sample, ())) == (fresh, fates)
        assert (row in told) == bool(fates)


@pytest.mark.parametrize(("name", "plainly"), CASES)
def test_rows_that_changed_since_are_seen_as_they_are(name: str, plainly: Callable[[Sample], Outcome]) -> None:
    rows: list[Sample] = [Document(f"text {at}", HERE) for at in range(PAGE_ROWS + 9)]
    texts = Texts(rows)
    texts.pages()
    changed = Document("e\u0301 https://a.b/c?utm_a=1 [图片]x", HERE)
    for row in (3, PAGE_ROWS + 2):
        texts.put(row, changed)
    texts.put(5, None)
    assert CLEANERS.load(name)().touch(texts) == dict.fromkeys((3, PAGE_ROWS + 2), plainly(changed))


def test_common_characters_need_no_mending() -> None:
    """`Page.telling` leaves out what normalising never touches, nor any cleaner looks for."""
    common = {*range(0x20, 0x7F), *range(0x4E00, 0xA000)} - set(map(ord, TELLING))
    looked_for = normalise._table() | symbols._table()
    assert not looked_for[list(common)].any() and not normalise._table()[list(map(ord, TELLING))].any()
    assert set(boilerplate._BEGUN) | {mark for mark, _ in injection._BEGUN} | set(":`锟烫屯") == set(TELLING)
    (page,) = Texts([Document("".join(map(chr, range(0xD800))), HERE)]).pages()
    places, units = page.telling
    assert common.isdisjoint(units.tolist()) and (page.units[places] == units).all()
    assert len(places) == 0xD800 - len(common) + 2  # a title too, each closed by a break
    assert np.all(np.diff(places) > 0)
    assert page.at_any(":<").tolist() == [ord(":"), ord("<")]


def test_rows_of_the_furnace_bench_come_to_the_same() -> None:
    path = SHARED / "instruct" / "alpaca_zh_en_12k.jsonl.gz"
    if not path.is_file():
        pytest.skip("no shared data")
    rows: Sequence[Sample] = [
        Conversation(tuple(Message("user", str(text)) for text in orjson.loads(line).values() if text), HERE)
        for line in gzip.decompress(path.read_bytes()).splitlines()[:1500]
    ]
    for name, plainly in CASES:
        assert CLEANERS.load(name)()(rows) == [plainly(row) for row in rows]
