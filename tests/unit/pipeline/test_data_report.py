"""The data report's page: whole, closed, escaped, in both languages; the sheet computes nothing when it is opened."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser

import pytest

from danlu.core.messages import LANGUAGES, Language
from danlu.data.quality import (
    AuditRow,
    Cluster,
    Conflict,
    ConflictFacts,
    ConveyorFacts,
    DataFacts,
    DocumentFacts,
    Member,
    PrivacyCount,
    ReplayFacts,
    StageFacts,
    SynthesisFacts,
    Tally,
    TwinFacts,
    gather,
    lengths_of,
)
from danlu.data.sample import Conversation, Label, Message, Origin
from danlu.pipeline.data_report import audit_sheet, veiled_facts
from danlu.pipeline.data_report_charts import columns, without_folder
from danlu.pipeline.data_report_html import render_data_report
from danlu.pipeline.data_report_words import percent

EVIL = "<script>alert(1)</script>"


def whole() -> DataFacts:
    """Every section has something to say, and every text tries to break out."""
    rows = [
        Conversation((Message("user", f"{EVIL}报销{n}怎么办？"), Message("assistant", f"按制度第{n}条。{EVIL}")),
                     Origin(f"qa-{EVIL}.jsonl", n), tags={"flags": ["truncated", EVIL], "level": "internal",
                     "made_by": "teacher", "scores": {"judge": 0.8}})
        for n in range(90)
    ]  # fmt: skip
    labels = [Label(f"评价 {n}", EVIL if n % 3 else "好", Origin("labels.csv", n)) for n in range(60)]
    told = ConveyorFacts(
        name=EVIL, dataset="d" * 64, template="t" * 64, created="2026-01-02T03:04:05",
        stages=(StageFacts("read", 200, 190, {"bad_json": 8, EVIL: 2}, {"mojibake_restored": 3}, {"truncated": 4}),
                StageFacts(EVIL, 190, 150)),
        lengths=lengths_of([60] * 140 + [900] * 10, 512, num_over=10, num_cut=4, num_supervised=3000),
        twins=TwinFacts(190, 20, 20, 9, 0.7, (Cluster(7, (Member(EVIL, EVIL),)),)),
        conflicts=ConflictFacts(1, 2, (Conflict(EVIL, (Member("a:1", "5"), Member("a:2", EVIL))),)),
        privacy=(PrivacyCount("mobile", "confidential", "mask", 3), PrivacyCount(EVIL, "restricted", "keep", 1)),
        synthesis=SynthesisFacts(9, 30, 20, 20, 19, 2, {EVIL: 10}, 1.5, "CNY", EVIL),
        documents=(DocumentFacts(EVIL, "", 900, 3), DocumentFacts("b.pdf", "", 10, 1)),
        certificate={"twins_across": 0, "questions_across": 1, "groups": 40, "digest": "c" * 64,
                     "max_similarity": {"value": 0.44}},
        replay=ReplayFacts(0.1, 500, 0.08, "base"), reproduce={"command": EVIL},
    )  # fmt: skip
    return gather([Tally.of([*rows, *labels]), Tally.of(labels[:9], "test")], told)


class Balance(HTMLParser):
    """Opened elements are closed; what a browser would fetch is collected."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "input", "br", "img"):
            self.open.append(tag)
        self.fetched += [str(value) for name, value in attrs if name in ("src", "data", "action", "poster")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another element"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_is_whole_closed_and_escaped(language: Language) -> None:
    page = render_data_report(whole(), language=language, other="other.html")
    parser = Balance()
    parser.feed(page)
    assert parser.open == [] and parser.fetched == []
    assert EVIL not in page and "&lt;script&gt;" in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert "{" not in re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.S).replace(
        "{restricted: token}", ""
    ).replace("{confidential: token}", "")
    assert 'href="other.html"' in page


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_empty_dataset_has_a_page_too(language: Language) -> None:
    page = render_data_report(DataFacts(told=ConveyorFacts(), num_rows=0), language=language)
    assert "<main>" in page


def test_the_two_languages_say_it_in_their_own_words() -> None:
    chinese, english = (render_data_report(whole(), language=language) for language in ("zh", "en"))
    assert "先处理红灯" in chinese and "Mend the red lights" in english
    told = re.sub(r"<(style|script)>.*?</\1>", "", english, flags=re.S)
    inside = re.sub(r"报销|怎么办|按制度第|条。|评价|好|中文", "", told)
    assert not re.findall(r"[\u4e00-\u9fff]", inside), "an English page speaks English around the rows"


def test_many_near_duplicates_say_what_would_serve_better() -> None:
    facts = gather([Tally.of([])], ConveyorFacts(twins=TwinFacts(50_000, 500, 15_000, 3000, 0.7)))
    page = render_data_report(facts, language="en")
    assert "50,000 rows, 31% of them copies" in page and "500 good rows would serve better" in page


def test_the_sheet_opens_in_a_spreadsheet_without_computing_anything() -> None:
    rows = tuple(
        AuditRow(f"s_{n}", "a:1", "label", text, '好\n坏,"x"')
        for n, text in enumerate(("=1+1", "@SUM(A1)", "-2", "正常"))
    )
    sheet = audit_sheet(rows)
    assert sheet.startswith("\ufeff")
    read = list(csv.reader(io.StringIO(sheet.lstrip("\ufeff"))))
    assert len(read) == 5 and all(len(row) == 9 for row in read)
    assert [row[3] for row in read[1:]] == ["'=1+1", "'@SUM(A1)", "'-2", "正常"]
    assert read[1][4] == '好\n坏,"x"' and "id" in read[0][0] and "编号" in read[0][0]


def test_files_are_named_from_where_their_folders_part() -> None:
    assert without_folder({"/a/b/c/x.csv": 1, "/a/b/d/y.csv": 2}) == {"c/x.csv": 1, "d/y.csv": 2}
    assert without_folder({"x.csv": 1}) == {"x.csv": 1}
    assert without_folder({"/a/b/x.csv": 3}) == {"x.csv": 3}
    assert without_folder({"/a/x.csv": 1, "/b/c/d/e/f/y.csv": 2}) == {"a/x.csv": 1, "…/e/f/y.csv": 2}


def test_what_lies_beyond_the_context_is_red() -> None:
    lengths = lengths_of([100] * 50 + [2000] * 5, 512)
    assert lengths.tokens is not None
    drawn = str(columns(lengths.tokens, title="t", x_label="x", mark=(512.0, "context")))
    assert drawn.count("fill-bad") == 1 and drawn.count("fill-tuned") == 1
    full = lengths_of([512] * 5, 512)
    assert full.tokens is not None
    assert "fill-bad" not in str(columns(full.tokens, title="t", x_label="x", mark=(512.0, "context")))


@pytest.mark.parametrize(
    ("ratio", "shown"), [(0, "0%"), (0.31, "31%"), (0.031, "3.1%"), (0.0031, "0.31%"), (1e-6, "< 0.01%"), (1, "100%")]
)
def test_a_little_is_not_shown_as_nothing(ratio: float, shown: str) -> None:
    assert percent(ratio) == shown


def test_no_value_of_a_row_or_of_a_file_name_stands_in_the_facts() -> None:
    """`data_report.json` held the answers as they were, and the pages the names of files with a phone in them."""
    rows = [
        Conversation((Message("user", f"怎么联系{n}？"), Message("assistant", f"打13770001244，第{n}次。")),
                     Origin(f"客户1392026132{n % 2}资料.jsonl", n))
        for n in range(40)
    ]  # fmt: skip
    facts = gather([Tally.of(rows)], ConveyorFacts(name="r"))
    assert "13770001244" in str(facts.to_json())
    shown = veiled_facts(facts)
    told = str(shown.to_json()) + "".join(render_data_report(shown, language=language) for language in LANGUAGES)
    assert "13770001244" not in told and "139202613" not in told
    assert [row.id for row in shown.audit] == [row.id for row in facts.audit]
    assert [len(view) for view in shown.balance.values()] == [len(view) for view in facts.balance.values()]
