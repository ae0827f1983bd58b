"""Privacy over many rows at once: what the quick pass leaves alone is what the close look finds nothing in."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_files import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.joined import Texts
from danlu.data.ledger import Ledger
from danlu.data.privacy import Examined, Keyring, Policy, PrivacyStage
from danlu.data.privacy.detectors import addresses_zh, names_zh
from danlu.data.privacy.detectors.names_en import GIVEN_EN
from danlu.data.privacy.detectors.names_zh import COMPOUND, GIVEN, SURNAMES
from danlu.data.privacy.scan import Scanner, own_rules
from danlu.data.sample import Conversation, Document, Label, Message, Origin, Sample
from danlu.data.sources import read
from danlu.data.texts import texts_of, with_tags
from danlu.recipe.privacy import PrivacySection

PLAIN = Scanner(engine="re")
ZH = [
    *f"{names_zh._LABELS}|{names_zh._WEAK}|{names_zh._TITLES}|{names_zh._OFFICES}|{addresses_zh._CUES}".split("|"),
    *"：: 为 是 叫 叫做 \t · • ， 、 和 某 的 说 任 \n 。 路88号 街 号 3栋 住 微信号 密码".split(" "), " ",
    *sorted(SURNAMES), *sorted(COMPOUND)[:9], *sorted(GIVEN), "北京", "北京市", "朝阳区", "广东", "内蒙古", "\ud800", "𠮷",
]  # fmt: skip
EN = [
    *"Mr Mrs ms dr . , ' - _ My name is this I'm hi Dear regards Contact: Smith SMITH de van O'Neil J É é x".split(" "),
    " ", " ", "\n", *sorted(GIVEN_EN)[::9], "12 Baker Street", "P.O. Box 12", "medical record", "VX", "中", "é",
]  # fmt: skip
MARKS = [
    *"138 1234 5678 13812345678 6222021878017598986 - – . ( ） , * １３８ 卡号 电话 2023 192.168.0.1 8.8.8.8 00:1A:2B".split(
        " "
    ),
    *"出生日期： 生于 1985年5月18日 出生 生 1985-05-18 DOB born May 18, 1985 19850518".split(" "),
    *"@ a@b.cn :// user:pw@ ?token= token: api_key= sk- eyJ abcdEFGH1234567890xy 密码 Passw0rd! 京A12345 护照E12345678".split(
        " "
    ), " ", "\n", "é", "\ud800",
]  # fmt: skip
SOME = (
    st.lists(st.sampled_from(ZH), max_size=6)
    | st.lists(st.sampled_from(EN), max_size=8)
    | st.lists(st.sampled_from(MARKS), max_size=8)
    | st.lists(st.sampled_from(ZH + EN + MARKS), max_size=8)
)
TEXTS = st.lists(SOME.map("".join), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> PrivacyStage:
    keyring = Keyring.open(tmp_path_factory.mktemp("keys") / "privacy.keys")
    return PrivacyStage(Policy.of(PrivacySection(pack="finance")), keyring)


def chat(question: str, answer: str, **tags: object) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), Origin("c.jsonl", 1), tags=tags)


def plainly(stage: PrivacyStage, samples: list[Sample]) -> list[Examined]:
    """The reference: every row looked at closely, by itself."""
    return [stage._closely([sample])[0] or stage._clean(sample) for sample in samples]


@settings(max_examples=600)
@given(TEXTS)
def test_whatever_is_found_was_suspected(texts: list[str]) -> None:
    pytest.importorskip("re2")
    scanner = Scanner(engine="re2")
    (page,) = Texts([Document(text, Origin("a.txt", 1)) for text in texts]).pages()
    found = {2 * row for row, hits in enumerate(PLAIN.scan(texts)) if hits}  # each has a title
    assert found <= {*scanner.suspects(page)}


def real_rows() -> Iterator[Sample]:
    for name, num in (("instruct/alpaca_zh_demo.json.gz", 600), ("instruct/alpaca_en_demo.json.gz", 600),
                      ("instruct/sharegpt_zh_1k.jsonl.gz", 100), ("medical_qa/huatuo_liver_cancer.json.gz", 300),
                      ("reviews_zh/waimai_10k.csv.gz", 500), ("finance_qa/disc_fin_consulting_part.json.gz", 200)):  # fmt: skip
        if (SHARED / name).is_file():
            yield from (row for row, _ in zip(read([SHARED / name], Ledger()), range(num), strict=False))
    path = SHARED / "pii" / "cn_pii_sentences.jsonl"
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            yield chat("说", json.loads(line)["text"])
    for name in ("presidio_generated_small", "presidio_synth_v2"):
        path = SHARED / "pii" / f"{name}.json.gz"
        if path.is_file():
            for row in json.loads(gzip.decompress(path.read_bytes()))[:500]:
                yield Document(row["full_text"], Origin(name, 1))


def test_real_rows_come_to_the_same_at_once_and_one_by_one(stage: PrivacyStage) -> None:
    rows = [*real_rows()]
    if not rows:
        pytest.skip("no shared data")
    assert stage.examine(rows) == plainly(stage, rows)
    told, tags = stage.look(Texts(rows))
    assert 0 < len(told) < len(rows)
    for row, sample in enumerate(rows):
        if row not in told:
            assert stage._clean(sample) == Examined((with_tags(sample, sample.tags | tags), ()), ())


def test_rows_with_anything_beside_their_texts_are_looked_at(stage: PrivacyStage) -> None:
    call = {"id": "c1", "function": {"name": "pay", "arguments": {"手机": "13812345678", "note": "ok"}}}
    called = (Message("user", "?"), Message("assistant", "", tool_calls=(call,)))
    rows: list[Sample] = [
        chat("q", "a"), chat("q", "a", note="电话13812345678"), chat("q", "a", note="nothing"), chat("q", "a", note="nothing"),
        chat("q", "a", level="restricted"), chat("q", "a", parents=["s_1"]), chat("电话13812345678", "a"),
        Conversation(called, Origin("c.jsonl", 2)), Label("good", "张伟13812345678", Origin("l.csv", 1)),
        Document("text", Origin("a.md", 1), group="13812345678"), Document("text", Origin("a.md", 2), group="g1"),
        Document("text", Origin("a.md", 3), group="g1"), Document("text", Origin("a.md", 4), "张伟先生", tags={"level": "odd"}),
    ]  # fmt: skip
    assert stage.examine(rows) == plainly(stage, rows)
    assert stage.examine(rows[::-1]) == plainly(stage, rows[::-1])
    texts = Texts(rows)
    texts.pages()
    texts.put(0, chat("q", "电话13812345678"))
    texts.put(6, None)
    told, _ = stage.look(texts)
    assert told[0] == plainly(stage, [chat("q", "电话13812345678")])[0]
    assert 6 not in told
    assert told[7].outcome[1][0].reason == "privacy_masked"


def test_known_people_and_rows_to_forget_are_sought_in_every_row(tmp_path: Path) -> None:
    keyring = Keyring.open(tmp_path / "keys")
    known = PrivacyStage(Policy.of(PrivacySection(pack="finance")), keyring, names=["欧阳小小"])
    rows: list[Sample] = [chat("q", "a"), chat("q", "昨天欧阳小小来过")]
    assert known.examine(rows) == plainly(known, rows)
    assert [*known.look(Texts(rows)).examined] == [1]


def test_every_rule_has_a_gate_that_re2_reads() -> None:
    re2 = pytest.importorskip("re2")
    for rule in own_rules():
        assert re2.compile(rule.gate.encode())


def test_texts_of_all_rows_are_asked(stage: PrivacyStage) -> None:
    """Over page borders, and behind a row that stops the pass many times."""
    rows: list[Sample] = [
        chat("电话13812345678 " * 20, f"a{at}") if at % 7 == 0 else chat("", "无") for at in range(1100)
    ]
    told, _ = stage.look(Texts(rows))
    assert [*told] == [*range(0, 1100, 7)]
    assert all(
        "13812345678" not in text for one in told.values() if one.outcome[0] for text in texts_of(one.outcome[0])
    )
