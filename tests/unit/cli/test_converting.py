"""`danlu convert`: one format into another and back, byte for byte; what cannot be held is named, not dropped."""

import json
from pathlib import Path

import pytest
import typer

from danlu.cli.converting import convert_files
from danlu.cli.voice import Voice
from danlu.core.errors import RecipeError, RunError
from danlu.data.sources import SourceSpec

ALPACA = [
    {
        "instruction": "头痛挂哪个科？",
        "input": "",
        "output": "内科。",
        "system": "你是导诊员。",
        "history": [["您好", "您好。"]],
    },
    {"instruction": "Translate", "input": "fever", "output": "发热"},
]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_alpaca_to_sharegpt_to_messages_and_back_is_the_same_file(tmp_path: Path) -> None:
    """Every suite wants its own rows, and every team has a script that loses the system prompt."""
    first = tmp_path / "first.jsonl"
    first.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ALPACA), "utf-8")
    place = first
    written = []
    for name in ("alpaca", "sharegpt", "messages", "alpaca"):
        out = tmp_path / f"{len(written)}-{name}.jsonl"
        convert_files([SourceSpec(place)], out, name, Voice(quiet=True))
        written.append(out)
        place = out
    assert written[0].read_bytes() == written[3].read_bytes()
    assert [row["conversations"][-1]["value"] for row in lines(written[1])] == ["内科。", "发热"]
    assert lines(written[2])[0]["messages"][0] == {"role": "system", "content": "你是导诊员。"}


def test_what_a_format_cannot_hold_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "qa.jsonl").write_text('{"question": "a?", "answer": "b"}\n{"question": "", "answer": "c"}\n', "utf-8")
    (tmp_path / "note.md").write_text("# Rules\n\nNobody smokes here.\n", "utf-8")
    out = tmp_path / "out.jsonl"
    with pytest.raises(typer.Exit) as ended:
        convert_files([SourceSpec(tmp_path / "qa.jsonl"), SourceSpec(tmp_path / "note.md")], out, "messages",
                      Voice(as_json=True))  # fmt: skip
    assert ended.value.exit_code == 1 and len(lines(out)) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["written"] == 1
    assert sorted(Path(one["where"]).name for one in told["left_out"]) == ["note.md:1", "qa.jsonl:2"]


def test_a_file_that_is_there_stays_and_nothing_is_left_of_nothing(tmp_path: Path) -> None:
    source, out = tmp_path / "note.md", tmp_path / "out.jsonl"
    source.write_text("Nobody smokes here.\n", "utf-8")
    with pytest.raises(typer.Exit) as ended:
        convert_files([SourceSpec(source)], out, "alpaca", Voice(quiet=True))
    assert ended.value.exit_code == 2 and not out.exists()
    out.write_text("mine", "utf-8")
    with pytest.raises(RunError, match="exists"):
        convert_files([SourceSpec(source)], out, "text", Voice(quiet=True))
    with pytest.raises(RecipeError, match="alpca"):
        convert_files([SourceSpec(source)], tmp_path / "new.jsonl", "alpca", Voice(quiet=True))
    assert out.read_text("utf-8") == "mine"


def test_what_reading_mends_in_a_row_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters and zero-width marks went out of rows that are said to lose nothing."""
    source, out = tmp_path / "qa.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"question": "a\\u0000b", "answer": "c"}\n{"question": "d", "answer": "e"}\n', "utf-8")
    convert_files([SourceSpec(source)], out, "messages", Voice(as_json=True))
    told, said = capsys.readouterr()
    assert [Path(one["where"]).name for one in json.loads(told)["changed"]] == ["qa.jsonl:1"]
    assert lines(out)[0]["messages"][0]["content"] == "ab" and "qa.jsonl:1" in said


def test_columns_that_cannot_come_along_are_counted_and_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A long note or an object beside question and answer was gone, and only a page of the docs said so."""
    source = tmp_path / "qa.jsonl"
    rows = [{"question": f"{n}?", "answer": "b", "year": 2020, "note": "long " * (60 * (n % 2)), "meta": {"x": 1}}
            for n in range(200)]  # fmt: skip
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    convert_files([SourceSpec(source)], tmp_path / "out.jsonl", "messages", Voice())
    said = [line for line in capsys.readouterr().out.splitlines() if "meta × 200" in line]
    assert len(said) == 1 and "note × 100" in said[0] and "year" not in said[0]
    assert all(row["year"] == 2020 and "meta" not in row for row in lines(tmp_path / "out.jsonl"))


@pytest.mark.parametrize("name", ["out.csv", "out.xlsx", "out.JSON"])
def test_a_name_that_promises_another_format_is_refused(tmp_path: Path, name: str) -> None:
    """`-o rows.csv` held JSON lines."""
    source = tmp_path / "qa.jsonl"
    source.write_text('{"question": "a?", "answer": "b"}\n', "utf-8")
    with pytest.raises(RunError) as caught:
        convert_files([SourceSpec(source)], tmp_path / name, "messages", Voice(quiet=True))
    assert caught.value.key == "cli.convert_suffix" and "out.jsonl" in caught.value.fix
    assert not (tmp_path / name).exists()
