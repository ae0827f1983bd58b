"""Every broken file of the malformed set, looked at by hand: how many rows are used, changed, rejected, and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from danlu.data.ledger import Ledger
from danlu.data.sources import FileReport, read

FOLDER = Path("../shared/data/malformed")
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the malformed set is not beside the repository")

# file: (encoding, read, used, changed, {reason for rejection: rows}, {reason for change: entries})
EXPECTED: dict[str, tuple[str, int, int, int, dict[str, int], dict[str, int]]] = {
    "alias_keys.jsonl": ("utf-8", 30, 30, 0, {}, {}),
    "blank_and_comment_lines.jsonl": ("utf-8", 20, 20, 0, {}, {}),
    "bom_crlf.jsonl": ("utf-8-sig", 50, 50, 0, {}, {}),
    "concatenated_no_newline.jsonl": ("utf-8", 20, 20, 19, {}, {"values_glued": 19}),
    "duplicate_keys.jsonl": ("utf-8", 10, 0, 0, {"duplicate_key": 10}, {}),
    "duplicates.jsonl": ("utf-8", 40, 40, 0, {}, {}),
    "empty.jsonl": ("utf-8", 1, 0, 0, {"empty_file": 1}, {}),
    "gb18030.jsonl": ("gb18030", 50, 50, 0, {}, {}),
    "gzip_named_jsonl.jsonl": ("utf-8", 50, 50, 0, {}, {}),
    "html_error_page.jsonl": ("utf-8", 1, 0, 0, {"html_page": 1}, {}),
    "lone_surrogate.jsonl": ("utf-8", 6, 6, 1, {}, {"lone_surrogate": 1}),
    "mixed_utf8_gb18030.jsonl": ("mixed", 50, 50, 17, {}, {"decoded_as": 17}),
    "mojibake.jsonl": ("utf-8", 10, 10, 10, {}, {"mojibake_restored": 10}),
    "nul_and_control_bytes.jsonl": ("utf-8", 20, 20, 1, {}, {"control_characters": 1}),
    "ok_quoted.csv": ("utf-8", 30, 30, 0, {}, {}),
    "one_long_line.jsonl": ("utf-8", 1, 1, 0, {}, {}),
    "only_bom.jsonl": ("utf-8-sig", 1, 0, 0, {"empty_file": 1}, {}),
    "ragged.csv": ("utf-8", 30, 30, 0, {}, {}),
    "semicolon_gb.csv": ("gb18030", 30, 30, 0, {}, {}),
    "sharegpt_bad_roles.jsonl": (
        "utf-8", 6, 2, 1,
        {"role_order": 1, "no_answer": 1, "empty_conversation": 1, "unknown_role": 1}, {"turns_joined": 1},
    ),
    "single_quotes.json": ("utf-8", 20, 20, 20, {}, {"json_single_quotes": 20}),
    "trailing_commas.json": ("utf-8", 20, 20, 1, {}, {"json_trailing_comma": 1}),
    "truncated.jsonl.gz": ("utf-8", 22, 21, 0, {"compressed_cut": 1}, {}),
    "truncated_last_line.jsonl": ("utf-8", 50, 49, 0, {"json_cut": 1}, {}),
    "unbalanced_quote.csv": ("utf-8", 30, 30, 2, {}, {"stray_quote": 2}),
    "utf16le.jsonl": ("utf-16-le", 50, 50, 0, {}, {}),
    "wrong_types.jsonl": (
        "utf-8", 11, 1, 1,
        {"empty_answer": 3, "wrong_type": 2, "missing_column": 1, "not_an_object": 4}, {"number_as_text": 1},
    ),
    "zero_width_and_fullwidth.jsonl": ("utf-8", 10, 10, 10, {}, {"zero_width": 10}),
}  # fmt: skip


def test_the_table_covers_every_file() -> None:
    on_disk = {path.name for path in FOLDER.iterdir()} - {"SOURCE.md", "SHA256SUMS"}
    assert on_disk == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_row_is_used_changed_or_rejected_with_a_reason(name: str) -> None:
    encoding, num_read, num_used, num_changed, rejects, changes = EXPECTED[name]
    ledger = Ledger()
    reports: list[FileReport] = []
    samples = list(read([FOLDER / name], ledger, reports=reports))
    ledger.check()
    assert len(samples) == ledger.num_used == num_used
    assert ledger.num_read == num_read
    assert Counter(entry.reason for entry in ledger.rejects) == rejects
    assert Counter(entry.reason for entry in ledger.changes) == changes
    assert ledger.num_changed == reports[0].num_changed == num_changed
    assert reports[0].encoding == encoding
    for entry in (*ledger.rejects, *ledger.changes):
        assert name in str(entry), "every entry names its file and fills its sentence"


def _texts(name: str) -> list[str]:
    return ["".join(message.content for message in sample.messages) for sample in read([FOLDER / name], Ledger())]


@pytest.mark.parametrize(
    "name", ["gb18030.jsonl", "utf16le.jsonl", "mixed_utf8_gb18030.jsonl", "gzip_named_jsonl.jsonl", "bom_crlf.jsonl"]
)
def test_the_same_rows_come_out_of_every_encoding(name: str) -> None:
    reference = _texts("truncated_last_line.jsonl")
    rows = _texts(name)
    assert rows[: len(reference)] == reference[: len(rows)]


def test_restored_mojibake_is_the_original_text() -> None:
    assert _texts("mojibake.jsonl") == _texts("duplicates.jsonl")[:10]


def test_the_broken_spot_is_named_by_line() -> None:
    ledger = Ledger()
    list(read([FOLDER / "truncated_last_line.jsonl"], ledger))
    assert ledger.rejects[0].line == 50
    assert ledger.rejects[0].raw.startswith('{"instruction"')
