"""Nothing comes into training by a side door: replay and variants are masked, counted and compared with what is held
out as every other row is, and the report says what was left out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from danlu.core.messages import say
from danlu.pipeline.prepare import Prepared, prepare
from danlu.recipe import Recipe
from danlu.run.run import Run

WORDS = "furnace ledger cedar harbour violet engine paper winter copper lantern meadow signal river marble".split()


def talk(number: int, subject: str = "the works") -> dict[str, str]:
    """A question and an answer that are like no other."""
    at = [WORDS[(number * step + step) % len(WORDS)] for step in (1, 3, 5, 9, 11)]
    asked = f"How does {at[0]} {number * 7919 % 1000} of {subject} meet the {at[1]} in {at[2]} {number}?"
    return {"question": asked, "answer": f"By {at[3]} number {number * 31} and the {at[4]} kept at {at[0]}{number}."}


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    )
    return path


def prepared(home: Path, base: Path, **data: Any) -> tuple[Run, Prepared]:
    tree = {"name": "side", "model": {"base": str(base), "dtype": "float32"}, "training": {"context": 256}}
    chapter = {"sources": [str(home / "rows.jsonl")], "privacy": {"key_file": str(home / "keys.json")}, **data}
    run = Run.create(Recipe.from_tree({**tree, "data": chapter}), home / "runs")
    return run, prepare(run)


def trained(run: Run, done: Prepared) -> list[str]:
    """Where each item of the train part was read."""
    rows = run.path("dataset", done.stages[-1].name, "train", "rows.jsonl").read_text().splitlines()
    return [json.loads(row)["origin"] for row in rows]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"duplicates": "keep", "cleaning": {"near_duplicates": "drop"}}, "twins_dropped_near"),
        ({"duplicates": "drop", "cleaning": {"near_duplicates": "drop"}}, "twins_dropped_all"),
        ({"duplicates": "keep", "cleaning": {"near_duplicates": "keep"}}, "twins_dropped_none"),
    ],
)
def test_the_report_says_which_copies_were_left_out(
    tmp_path: Path, base: Path, data: dict[str, Any], told: str
) -> None:
    """Near copies were dropped, and the report said that copies were kept."""
    rows = [talk(number) for number in range(40)]
    near = talk(3) | {"answer": talk(3)["answer"].replace("kept", "held")}
    write_rows(tmp_path / "rows.jsonl", [*rows, talk(5), near])
    run, _ = prepared(tmp_path, base, **data)
    page = run.path("data_report.en.html").read_text()
    said = {
        key: say(f"report_data.{key}") in page
        for key in ("twins_dropped_near", "twins_dropped_all", "twins_dropped_none")
    }
    assert said == {key: key == told for key in said}
