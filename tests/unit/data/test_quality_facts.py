"""Facts for the data report: the same however the data is cut, bounded, and without anybody's number in them."""

from __future__ import annotations

import itertools
import random

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.excerpts import VEIL, veil
from danlu.data.language import language_or_mix
from danlu.data.quality import (
    Cluster,
    Conflict,
    ConflictFacts,
    ConveyorFacts,
    DataFacts,
    DocumentFacts,
    Histogram,
    Member,
    Tally,
    TwinFacts,
    gather,
    lengths_of,
)
from danlu.data.quality.diversity import distinct, diversity_of, topics_of
from danlu.data.quality.gather import with_silent_files
from danlu.data.quality.lengths import histogram_of
from danlu.data.quality.scores import Read, judge
from danlu.data.quality.tally import MAX_VALUES, OTHERS
from danlu.data.quality.vectors import nearest_of, vectors_of
from danlu.data.sample import Conversation, Document, Label, Message, Origin, Sample


def talk(number: int, asked: str = "", answered: str = "", **tags: object) -> Conversation:
    messages = (
        Message("user", asked or f"问题{number}是什么？"),
        Message("assistant", answered or f"答案是{number}。"),
    )
    return Conversation(messages, Origin(f"f{number % 7}.jsonl", number), tags=tags)


samples = st.lists(
    st.one_of(
        st.builds(talk, st.integers(0, 500), st.text(max_size=30), st.text(max_size=30)),
        st.builds(
            lambda n, text, label: Label(text, label, Origin("labels.csv", n), tags={"flags": ["echo"], "scores": {"llm": 0.5}}),
            st.integers(0, 500), st.text(max_size=30), st.sampled_from(["好", "坏", "bad"]),
        ),
        st.builds(lambda n, text: Document(text, Origin("a.pdf", n, page=n)), st.integers(0, 50), st.text(max_size=60)),
    ),
    max_size=60,
)  # fmt: skip


@settings(max_examples=40)
@given(samples, st.lists(st.integers(0, 60), max_size=5), st.randoms())
def test_facts_do_not_depend_on_how_the_rows_were_cut(rows: list[Sample], cuts: list[int], dice: random.Random) -> None:
    whole = gather([Tally.of(rows)], ConveyorFacts())
    edges = sorted({0, *(min(cut, len(rows)) for cut in cuts), len(rows)})
    shards = [Tally.of(rows[start:end]) for start, end in itertools.pairwise(edges)]
    dice.shuffle(shards)
    assert gather(shards, ConveyorFacts()) == whole


@settings(max_examples=20)
@given(samples)
def test_facts_read_back_as_they_were_written(rows: list[Sample]) -> None:
    told = ConveyorFacts(
        name="x", lengths=lengths_of([1, 5, 700], 512), documents=(DocumentFacts("a.pdf", "id", 3, 1),)
    )
    facts = gather([Tally.of(rows), Tally.of(rows[:3], "test")], told)
    assert DataFacts.from_json(orjson.loads(orjson.dumps(facts.to_json()))) == facts


def test_facts_stay_small_with_endless_labels_sources_and_texts() -> None:
    tally = Tally()
    for start in range(0, 30_000, 5000):
        rows = [Label("长" * 900, f"label {n}", Origin(f"source-{n}.csv", n)) for n in range(start, start + 5000)]
        tally.merge(Tally.of(rows))
    assert len(tally.balance["labels"]) <= 2 * MAX_VALUES
    assert sum(tally.balance["labels"].values()) == 30_000
    facts = gather([tally], ConveyorFacts())
    assert facts.num_rows == 30_000
    assert facts.balance["labels"][OTHERS] == 30_000 - 50
    assert len(orjson.dumps(facts.to_json())) < 1_500_000


def test_the_audit_sheet_is_drawn_from_everywhere() -> None:
    """The first rows of a file are no sample of it."""
    lines = sorted(
        int(row.where.rpartition(":")[2])
        for row in gather([Tally.of([talk(n) for n in range(3000)])], ConveyorFacts()).audit
    )
    assert len(lines) == 30 == len(set(lines))
    assert lines[0] < 600 and lines[-1] > 2400


def test_only_train_rows_are_described_but_every_document_is_covered() -> None:
    passage = Document("章程第一条。", Origin("rules.pdf", 1, page=1))
    cited = talk(1, evidence=[{"document": "sha-1", "start": 0, "end": 3, "text": "第一"}])
    documents = (DocumentFacts("rules.pdf"), DocumentFacts("old.pdf", "sha-1"), DocumentFacts("scan.pdf", "sha-2"))
    facts = gather([Tally.of([passage], "test"), Tally.of([cited])], ConveyorFacts(documents=documents))
    assert facts.num_rows == 1 and facts.parts == {"test": 1, "train": 1}
    assert facts.coverage is not None
    assert {one.name: one.num_rows for one in facts.coverage.documents} == {"rules.pdf": 1, "old.pdf": 1, "scan.pdf": 0}
    assert facts.coverage.num_without == 1 and facts.coverage.documents[0].name == "scan.pdf"


PERSONAL = ("13812345678", "１３８１２３４５６７８", "11010519491231002X", "a.b@example.com", "6222 0200 1234 5678 900",
            "sk-abcdEFGH1234567890abcd", "10.20.30.40", "京A12345", "E12345678")  # fmt: skip


@pytest.mark.parametrize("value", PERSONAL)
def test_no_value_stands_in_clusters_conflicts_or_topics(value: str) -> None:
    told = ConveyorFacts(
        twins=TwinFacts(3, 1, 1, 1, top=(Cluster(3, (Member("a:1", f"请联系 {value} 办理"),) * 9),)),
        conflicts=ConflictFacts(
            1, 2, (Conflict(f"谁是 {value}？", (Member("a:1", value), Member("a:2", f"x{value}"))),)
        ),
    )
    rows = [talk(n, f"号码 {value} 属于谁？", f"联系人张伟，{value}") for n in range(80)]
    facts = gather([Tally.of(rows)], told)
    shown = orjson.dumps([facts.to_json()["told"], facts.to_json()["diversity"]]).decode()
    assert value not in shown and VEIL in shown
    assert facts.told.twins is not None and len(facts.told.twins.top[0].members) == 6


@given(st.text(max_size=200), st.integers(2, 60))
def test_a_veiled_text_is_never_longer_than_asked(text: str, most: int) -> None:
    assert len(veil(text, most)) <= most


def test_prices_and_years_are_no_secrets() -> None:
    assert (
        veil("2024年报销上限 3500 元，见第 12 条：不超过 20%。", 100)
        == "2024年报销上限 3500 元，见第 12 条：不超过 20%。"
    )


@given(st.lists(st.integers(0, 400_000), min_size=1, max_size=200))
def test_quantiles_of_a_histogram_are_at_most_one_bar_too_high(values: list[int]) -> None:
    histogram = histogram_of(values)
    assert histogram.num == len(values) and histogram.total == sum(values) and histogram.largest == max(values)
    for level in (0.5, 0.95):
        exact = float(np.quantile(values, level, method="inverted_cdf"))
        assert exact <= histogram.quantile(level) + 1e-9 <= max(6.0, exact * 1.5) + 1e-6


def test_lengths_count_what_is_longer_than_the_context() -> None:
    lengths = lengths_of(np.array([512, 513, 9000]), 512)
    assert lengths.num_over == 2 and lengths.num_tokens == 10_025
    assert lengths_of([5], 512, num_over=7).num_over == 7


@pytest.mark.parametrize(
    ("text", "language"),
    [("今天天气很好", "zh"), ("The weather is fine", "en"), ("12345 %%", "other"), ("今日はとても良い天気です", "ja"), ("오늘 날씨가 좋다", "ko"),
     ("用 Python 写一个 for 循环 please", "mixed"), ("", "other")],
)  # fmt: skip
def test_languages_are_told_by_their_script(text: str, language: str) -> None:
    assert language_or_mix(text) == language


@pytest.mark.parametrize(
    ("prompt", "answer", "rule"),
    [("报销上限？", "", "short"), ("?", "好的" * 200, "repeats"),
     ("年假有多少天可以休，怎么申请？", "年假有多少天可以休，怎么申请？", "copied"), ("a", "&nbsp;<br>价格", "broken"),
     ("a", "▇■◆○●△▲※★☆" * 4, "symbols"), ("a", "作为一个AI语言模型，我不能这样说。", "refusal"), ("a", "首先准备材料，其次填写申请表并请部门主管签字，然后在每月五日之前提交给财务处，经办人会在三个工作日之内答复，若有缺漏会一次说明，补齐之后重新受理；" * 2 + "最后，以及", "open_end")],
)  # fmt: skip
def test_each_rule_lowers_the_score(prompt: str, answer: str, rule: str) -> None:
    ((score, broken), fine) = judge(
        [
            Read("conversation", prompt, answer),
            Read("conversation", "报销上限是多少？", "每次 160 元。（《报销细则》）"),
        ]
    )
    assert rule in broken and score < 1
    assert fine == (1.0, ())


def test_a_text_that_the_report_cut_is_not_said_to_break_off() -> None:
    answer = "材料齐全以后提交申请。经办人在三天之内答复，" * 30
    (whole, cut) = judge([Read("conversation", "a", answer), Read("conversation", "a", answer, is_cut=True)])
    assert "open_end" in whole[1] and "open_end" not in cut[1]


def test_equal_texts_are_nearest_and_different_ones_are_far() -> None:
    vectors = vectors_of(["报销上限是多少", "报销上限是多少", "zebra crossing ahead"])
    nearest = nearest_of(vectors)
    assert nearest[:2] == pytest.approx([1, 1], abs=1e-5) and nearest[2] < 0.1
    assert vectors.dot(vectors.dense(0))[1] == pytest.approx(1, abs=1e-5)


def test_templates_are_less_diverse_than_prose() -> None:
    dice = random.Random(1)
    template = [f"城市{n}的图书馆开放时间是几点？" for n in range(200)]
    prose = ["".join(chr(dice.randint(0x4E00, 0x9000)) for _ in range(16)) for _ in range(200)]
    assert diversity_of(template).mean_nearest > 0.6 > 0.3 > diversity_of(prose).mean_nearest
    assert distinct(template, 3) < 0.3 < distinct(prose, 3)


def test_topics_find_the_two_subjects() -> None:
    rows = [f"发票报销需要{n}个工作日" for n in range(60)] + [f"the server room needs badge {n}" for n in range(40)]
    topics = topics_of(rows)
    assert sum(topic.share for topic in topics) == pytest.approx(1, abs=1e-3)
    words = [" ".join(topic.words) for topic in topics]
    assert any("报销" in told for told in words) and any("server" in told for told in words)
    assert not any("报销" in told and "server" in told for told in words)


def test_histograms_over_other_edges_are_refused() -> None:
    from danlu.data.quality.lengths import add

    with pytest.raises(AssertionError, match="edges"):
        add(histogram_of([1.0]), Histogram((0.0, 1.0), (1, 0)))


def test_marks_of_a_judge_beyond_one_are_counted_too() -> None:
    rows = [talk(n, scores={"judge": float(n % 5 + 1), "share": 1.0}) for n in range(50)]
    facts = gather([Tally.of(rows)], ConveyorFacts())
    assert facts.scores["judge"].mean == pytest.approx(3) and facts.scores["judge"].largest == 5
    share = facts.scores["share"]
    assert share.counts[19] == 50, "1 belongs to the highest twentieth"


def test_a_scanned_document_is_named_although_no_row_of_it_was_ever_counted() -> None:
    passage = Document("章程第一条。", Origin("half.pdf", 1, page=1))
    facts = gather([Tally.of([passage])], ConveyorFacts(documents=(DocumentFacts("half.pdf", "", 6, 1),)))
    rejects = [
        {"file": "scan.pdf", "line": 1, "code": "needs_ocr"},
        {"file": "scan.pdf", "line": 2, "code": "needs_ocr"},
        {"file": "half.pdf", "line": 2, "code": "needs_ocr"},
        {"file": "broken.docx", "line": 0, "code": "unreadable"},
        {"file": "qa.jsonl", "line": 7, "code": "bad_json"},
    ]
    coverage = with_silent_files(facts, rejects).coverage
    assert coverage is not None
    assert [one.name for one in coverage.documents] == ["broken.docx", "scan.pdf", "half.pdf"]
    assert (coverage.num_documents, coverage.num_without) == (3, 2)
    assert with_silent_files(facts, rejects[-1:]) == facts
