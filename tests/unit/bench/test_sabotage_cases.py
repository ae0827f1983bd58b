"""The loop of both sabotage benches: a run that was stopped goes on, and its table counts what was found."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def bench() -> Any:
    return importlib.import_module("sabotage_cases")


def keys(family: str, seed: int) -> list[Any]:
    key = importlib.import_module("sabotage_cases").Key
    return [key("matrix", family, seed, "fp8", harm) for harm in ("one", "two", "three")]


class Trials:
    """Counts what is tried; the case `dies` kills the run."""

    def __init__(self, dies: str = "") -> None:
        self.dies, self.tried, self.opened = dies, [], []

    def open(self, family: str, folder: Path, *, seed: int) -> str:
        assert folder.is_dir()
        self.opened.append((family, seed))
        return family

    def try_one(self, trial: str, key: Any) -> dict[str, Any]:
        if key.harm == self.dies:
            raise KeyboardInterrupt
        self.tried.append((trial, key.harm))
        return {"failed": ["file"], "by": ["files"]}


def test_a_stopped_run_goes_on_where_it_was_and_a_torn_line_is_tried_again(bench: Any, tmp_path: Path) -> None:
    first = Trials(dies="three")
    with pytest.raises(KeyboardInterrupt):
        bench.try_all(bench.Cases(tmp_path), ["llama2", "phi3"], 1, keys, first.open, first.try_one)
    with (tmp_path / "cases.jsonl").open("a") as file:
        file.write('{"act": "matrix", "fam')
    second = Trials()
    bench.try_all(bench.Cases(tmp_path), ["llama2", "phi3"], 1, keys, second.open, second.try_one)
    assert second.tried == [("llama2", "three"), ("phi3", "one"), ("phi3", "two"), ("phi3", "three")]
    third = Trials()
    bench.try_all(bench.Cases(tmp_path), ["llama2", "phi3"], 1, keys, third.open, third.try_one)
    assert not third.opened, "nothing is missing: no pupil is trained"


def row(harm: str, failed: list[str], **further: Any) -> dict[str, Any]:
    return {"act": "matrix", "family": "llama2", "seed": 0, "kind": "fp8", "harm": harm, "failed": failed} | further


def test_the_table_tells_refused_from_missed_and_names_who_was_alone(bench: Any) -> None:
    found = bench.sum_up(
        [
            row("", [], figures={"least_arrived": 0.99}),
            row("nearest", ["file"], figures={"least_arrived": 0.98}),
            row("scales lost", ["file", "transformers_logits"], by=["files", "transformers"]),
            row("header", ["file_header"], by=["files"]),
            row("nothing seen", []),
        ]
    )
    assert (found["num_honest"], found["num_refused"], found["num_spoilt"], found["num_caught"]) == (2, 1, 3, 2)
    assert found["by_kind"] == {"fp8": {"passed": 1, "refused": 1, "caught": 2, "missed": 1}}
    assert [each["harm"] for each in found["missed"]] == ["nothing seen"]
    assert found["only_by"] == {"fp8": {"files": 1}} and found["only_by_check"] == {"fp8": {"file_header": 1}}
    assert found["noise"] == {"fp8": {"least_arrived": 0.98}} and not bench.sum_up([])
