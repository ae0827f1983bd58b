"""Real data sets are sniffed right: as many rows used as their makers say, in the right format. Every messy document is
accounted for, and what is not read yet is refused by its own name."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from danlu.core.messages import set_language
from danlu.data.ledger import Ledger
from danlu.data.sources import FileReport, read

DATA = Path("../shared/data")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not beside the repository")

# file: (row format, kind, used, rejected)
EXPECTED: dict[str, tuple[str, str, int, dict[str, int]]] = {
    "instruct/alpaca_en_demo.json.gz": ("alpaca", "conversation", 999, {}),
    "instruct/alpaca_zh_demo.json.gz": ("alpaca", "conversation", 1000, {}),
    "instruct/alpaca_zh_en_12k.jsonl.gz": ("alpaca", "conversation", 11989, {"empty_answer": 11}),
    "instruct/alpaca_zh_en_lowscore.jsonl.gz": ("alpaca", "conversation", 1996, {"empty_answer": 4}),
    "instruct/c4_demo.jsonl.gz": ("text", "document", 300, {}),
    "instruct/dataset_info.json.gz": ("", "", 0, {"unknown_columns": 1}),
    "instruct/glaive_toolcall_en_demo.json.gz": ("sharegpt", "conversation", 300, {}),
    "instruct/glaive_toolcall_zh_demo.json.gz": ("sharegpt", "conversation", 300, {}),
    "instruct/identity.json.gz": ("alpaca", "conversation", 91, {}),
    "instruct/reason_tool_use_demo_50.jsonl.gz": ("messages", "conversation", 50, {}),
    "instruct/self_instruct_seed_tasks.jsonl.gz": ("alpaca", "conversation", 175, {}),
    "instruct/self_instruct_user_oriented_252.jsonl.gz": ("alpaca", "conversation", 252, {}),
    "instruct/sharegpt_zh_1k.jsonl.gz": (
        "sharegpt", "conversation", 994, {"empty_question": 1, "empty_answer": 4, "no_answer": 1},
    ),
    "instruct/v1_sft_demo.jsonl.gz": ("messages", "conversation", 500, {}),
    "preference/dpo_en_demo.json.gz": ("preference", "preference", 258, {}),
    "preference/dpo_zh_demo.json.gz": ("preference", "preference", 255, {}),
    "preference/hh_harmless_base_test.jsonl.gz": ("preference", "preference", 2248, {"empty_side": 4}),
    "preference/kto_en_demo.json.gz": ("kto", "feedback", 300, {}),
    "preference/medicalgpt_dpo_zh_500.jsonl.gz": ("preference", "preference", 437, {}),
    "preference/toolcall_dpo_zh_demo.jsonl.gz": ("preference", "preference", 11, {}),
    "preference/v1_dpo_demo.jsonl.gz": ("preference", "preference", 10, {}),
    "medical_qa/huatuo_liver_cancer.json.gz": ("alpaca", "conversation", 1000, {}),
    "medical_qa/huatuo_llama_data.jsonl.gz": ("alpaca", "conversation", 8471, {}),
    "medical_qa/medicalgpt_seed_nurse_role.jsonl.gz": ("", "", 0, {"unknown_columns": 66}),
    "medical_qa/medicalgpt_sft_1k.sharegpt.jsonl.gz": ("sharegpt", "conversation", 950, {}),
    "medical_qa/toyhom_neike_sample.gb18030.csv.gz": ("prompt_completion", "conversation", 7345, {}),
    "finance_qa/disc_fin_computing_eval.json.gz": ("alpaca", "conversation", 100, {}),
    "finance_qa/disc_fin_consulting_part.json.gz": ("alpaca", "conversation", 100, {}),
    "finance_qa/disc_fin_retrieval_part.json.gz": ("alpaca", "conversation", 100, {}),
    "finance_qa/disc_fin_retriever_eval.json.gz": ("", "", 0, {"missing_column": 61}),
    "finance_qa/disc_fin_task_part.json.gz": ("alpaca", "conversation", 100, {}),
    "tcm_qa/tcm_classics_qa.jsonl.gz": ("alpaca", "conversation", 3392, {}),
    "reviews_zh/ChnSentiCorp_htl_all.csv.gz": ("label", "label", 7349, {"empty_text": 1}),
    "reviews_zh/asap_train_sample.csv.gz": ("label", "label", 100, {}),
    "reviews_zh/edge_candidates.jsonl.gz": ("label", "label", 332, {}),
    "reviews_zh/waimai_10k.csv.gz": ("label", "label", 11737, {}),
    "reviews_en/t0_reviews_prompted.jsonl.gz": ("prompt_completion", "conversation", 8200, {}),
    "reviews_en/vader_tweets.tsv.gz": ("text", "document", 4200, {}),
    "eval/gsm8k_test.jsonl.gz": ("prompt_completion", "conversation", 1319, {}),
    "eval/lawbench_1-1.json.gz": ("alpaca", "conversation", 500, {}),
    "pii/cn_pii_sentences.jsonl": ("text", "document", 300, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_a_data_set_is_sniffed_right(name: str) -> None:
    fmt, kind, num_used, rejects = EXPECTED[name]
    ledger = Ledger()
    reports: list[FileReport] = []
    for _ in read([DATA / name], ledger, reports=reports):
        pass
    ledger.check()
    assert reports[0].format == fmt
    assert set(reports[0].kinds) == ({kind} if kind else set())
    assert ledger.num_used == num_used
    assert Counter(entry.reason for entry in ledger.rejects) == rejects


def test_the_gb18030_consultations_are_read_as_gb18030() -> None:
    reports: list[FileReport] = []
    path = DATA / "medical_qa/toyhom_neike_sample.gb18030.csv.gz"
    first = next(read([path], Ledger(), reports=reports))
    assert first.messages[0].content.startswith("我有高血压这两天")
    assert reports[0].compression == "gzip"


@pytest.mark.parametrize("name", sorted(path.name for path in (DATA / "pretrain").glob("*.zst")))
def test_zstandard_with_a_long_window_streams(name: str) -> None:
    ledger = Ledger()
    documents = list(islice(read([DATA / "pretrain" / name], ledger), 50))
    assert len(documents) == 50
    assert all(document.kind == "document" and document.text for document in documents)


NOT_READ_YET = {"msg": 1, "ipynb": 1, "xml": 1, "sqlite": 1}


def test_every_document_is_read_or_refused_by_name() -> None:
    set_language("en")
    ledger = Ledger()
    reports: list[FileReport] = []
    samples = list(read([DATA / "documents"], ledger, reports=reports))
    set_language(None)
    ledger.check()
    files = [report.file for report in reports if not report.file.endswith(("documents/SOURCE.md", "SHA256SUMS"))]
    assert len(files) == 166
    assert len(set(files)) == 166
    assert all(report.num_read for report in reports), "no file goes by without a word"
    refused = Counter(str(entry.values["format"]) for entry in ledger.rejects if entry.reason == "not_read_yet")
    assert refused == NOT_READ_YET
    assert any(str(entry).endswith("msg is not read yet") for entry in ledger.rejects)
    others = Counter(entry.reason for entry in ledger.rejects if entry.reason != "not_read_yet")
    assert others == {"needs_ocr": 3, "unknown_columns": 1, "no_text": 1}, "a deck of pictures alone"
    assert all(sample.kind == "document" and sample.group for sample in samples)


def _document(name: str) -> str:
    return "\n".join(sample.text for sample in read([DATA / "documents" / name], Ledger()))


def test_words_of_a_word_document_come_in_order_with_headings_and_tables() -> None:
    text = _document("office/test.docx")
    assert "# AutoGen: Enabling Next-Gen LLM Applications via Multi-Agent Conversation" in text
    assert "| --- |" in text


def test_a_wordy_page_keeps_its_text() -> None:
    assert "OpenAI" in _document("office/test_wikipedia.html")


def test_a_workbook_of_tables_becomes_markdown() -> None:
    assert "| --- |" in _document("office/test.xlsx")


def test_shift_jis_is_not_taken_for_gb18030() -> None:
    reports: list[FileReport] = []
    (table,) = read([DATA / "documents/office/test_mskanji.csv"], Ledger(), reports=reports)
    assert reports[0].encoding == "shift_jis"
    assert table.text.splitlines()[2:] == [
        "| 佐藤太郎 | 30 | 東京 |",
        "| 三木英子 | 25 | 大阪 |",
        "| 髙橋淳 | 35 | 名古屋 |",
    ]


def test_a_short_gb18030_line_is_not_taken_for_utf8() -> None:
    """胃 alone on a line is two bytes that are valid UTF-8 (θ)."""
    text = _document("tcm_gb18030/095-金匮方歌括.txt")
    assert "θ" not in text
    assert "\n胃 \n" in text
