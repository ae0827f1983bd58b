"""JSON in the shapes people save it, whole and broken; one bad element costs itself alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.ledger import Ledger
from danlu.data.sources import read

ONE, TWO = {"q": "一 {[", "a": '二 "引" \\'}, {"q": "三", "a": "四"}
A, B = json.dumps(ONE, ensure_ascii=False), json.dumps(TWO)
BOTH = [(ONE["q"], ONE["a"]), (TWO["q"], TWO["a"])]


def read_json(tmp_path: Path, text: str, name: str = "rows.json") -> tuple[list[tuple[str, ...]], Ledger]:
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    ledger = Ledger()
    rows = [tuple(m.content for m in sample.messages) for sample in read([tmp_path / name], ledger)]
    ledger.check()
    return rows, ledger


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.txt", "rows"])
@pytest.mark.parametrize(
    "text",
    [
        f"{A}\n{B}\n", f"[{A},{B}]", f"[\n{A},\n{B}\n]\n", json.dumps([ONE, TWO], indent=2),
        f"{A}{B}", f"{A} {B}", json.dumps(ONE, indent=2) + "\n" + json.dumps(TWO, indent=2), f"\n\n{A}\n\n\n{B}",
        f"[{A}]\n[{B}]",
    ],
)  # fmt: skip
def test_the_same_two_rows_in_every_shape(tmp_path: Path, name: str, text: str) -> None:
    rows, ledger = read_json(tmp_path, text, name)
    assert rows == BOTH
    assert not ledger.rejects


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    text = json.dumps([ONE, {"q": "x"}, TWO], indent=2, ensure_ascii=False)
    _, ledger = read_json(tmp_path, text)
    assert [(entry.line, entry.reason) for entry in ledger.rejects] == [(6, "missing_column")]


def test_a_broken_line_costs_itself_alone(tmp_path: Path) -> None:
    rows, ledger = read_json(tmp_path, f'{A}\n{{"q": oops, "a": 1}}\n{B}\n', "rows.jsonl")
    assert rows == BOTH
    assert [(entry.line, entry.reason, entry.values["column"]) for entry in ledger.rejects] == [(2, "bad_json", 7)]


def test_a_broken_element_of_an_array_costs_itself_alone(tmp_path: Path) -> None:
    rows, ledger = read_json(tmp_path, f'[\n{A},\n{{"q": oops, "a": 1}},\n{B}\n]')
    assert rows == BOTH
    assert [(entry.line, entry.reason) for entry in ledger.rejects] == [(3, "bad_json")]


def test_an_array_that_is_cut_keeps_what_is_whole(tmp_path: Path) -> None:
    rows, ledger = read_json(tmp_path, f"[{A},\n{B[:9]}")
    assert rows == BOTH[:1]
    assert [(entry.line, entry.reason) for entry in ledger.rejects] == [(2, "json_cut")]


def test_commas_too_many_and_quotes_too_few_are_mended_and_told(tmp_path: Path) -> None:
    rows, ledger = read_json(
        tmp_path, '{\'q\': \'一\', \'a\': \'it\\\'s "x"\'}\n{"q": "三", "a": "四,}",}\n', "rows.jsonl"
    )
    assert rows == [("一", 'it\'s "x"'), ("三", "四,}")]
    assert [entry.reason for entry in ledger.changes] == ["json_single_quotes", "json_trailing_comma"]


def test_a_key_given_twice_with_one_value_is_no_fault(tmp_path: Path) -> None:
    rows, ledger = read_json(tmp_path, '{"q": "x", "a": "y", "a": "y"}\n{"q": "x", "a": "y", "a": "z"}\n', "rows.jsonl")
    assert rows == [("x", "y")]
    assert ledger.rejects[0].reason == "duplicate_key"
    assert ledger.rejects[0].values["keys"] == "a"


def test_numbers_beyond_json_and_deep_nesting_do_not_break_the_reader(tmp_path: Path) -> None:
    deep = "[" * 5000 + "]" * 5000
    text = f'{{"q": "x", "a": NaN}}\n{{"q": "x", "a": {10**400}}}\n{{"q": "x", "a": {deep}}}\n{B}\n'
    rows, ledger = read_json(tmp_path, text, "rows.jsonl")
    assert rows[-1] == BOTH[1]
    assert ledger.num_read == 4


def test_numbers_too_long_for_a_machine_word_keep_their_digits(tmp_path: Path) -> None:
    """An account number is no quantity: 62220212345678901234 must not become 6.222e19."""
    rows, _ = read_json(tmp_path, '{"q": "account?", "a": 62220212345678901234}\n', "rows.jsonl")
    assert rows == [("account?", "62220212345678901234")]


def test_nan_is_not_taken_for_a_key_given_twice(tmp_path: Path) -> None:
    _, ledger = read_json(tmp_path, '{"q": "x", "a": NaN}\n', "rows.jsonl")
    assert [entry.reason for entry in ledger.rejects] == ["empty_answer"]


rows = st.lists(
    st.fixed_dictionaries({"q": st.text(st.characters(codec="utf-8"), min_size=1), "a": st.text(st.characters(codec="utf-8"), min_size=1)}),
    min_size=1, max_size=6,
)  # fmt: skip


@settings(max_examples=100)
@given(rows, st.sampled_from([None, 1, 4]), st.booleans(), st.booleans())
def test_whatever_json_dumps_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[dict[str, str]],
    indent: int | None,
    escape: bool,
    array: bool,
) -> None:
    text = (
        json.dumps(values, indent=indent, ensure_ascii=escape)
        if array
        else "\n".join(json.dumps(value, indent=indent, ensure_ascii=escape) for value in values)
    )
    path = tmp_path_factory.mktemp("json") / "rows.json"
    path.write_bytes(text.encode())
    ledger = Ledger()
    back = [tuple(m.content for m in sample.messages) for sample in read([path], ledger)]
    assert ledger.num_read == len(values)
    assert {entry.reason for entry in ledger.rejects} <= {"empty_question", "empty_answer", "mojibake"}
    if not ledger.changes and not ledger.rejects:
        assert back == [(value["q"], value["a"]) for value in values]


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
def test_an_array_on_one_very_long_line_streams(tmp_path: Path, encoding: str) -> None:
    num = 30_000
    text = "[" + ", ".join(f'{{"q": "第{number}问，镕", "a": "{{答}}{number}"}}' for number in range(num)) + "]"
    (tmp_path / "rows.json").write_bytes(text.encode(encoding))
    ledger = Ledger()
    answers = [sample.messages[1].content for sample in read([tmp_path / "rows.json"], ledger)]
    assert answers == [f"{{答}}{number}" for number in range(num)]
    assert not ledger.rejects
    assert not ledger.changes
