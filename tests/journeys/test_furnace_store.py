"""Runs that share one folder: nobody takes another's shards away, and equal inputs give equal ids."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import danlu

from danlu.core.files import read_json, write_json
from danlu.core.progress import Silent
from danlu.data.flow.manifest import make_manifest
from danlu.pipeline.prepare import Prepared, prepare
from danlu.recipe import Recipe
from danlu.run.run import Run

pytest.importorskip("pyarrow")

WORDS = "furnace ledger cedar harbour violet engine paper winter copper lantern meadow signal river marble".split()


class Interrupted(Silent):
    """Something happens when encoding begins: rows are read and compared, the dataset is not there yet."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act: Callable[[], Any] | None = act

    def start(self, what: str, total: int | None = None) -> None:
        if "1-sft" in what and self.act is not None:
            act, self.act = self.act, None
            act()


def write_rows(path: Path, first: int, num: int = 60) -> Path:
    lines = []
    for number in range(first, first + num):
        at = [WORDS[(number * step + step) % len(WORDS)] for step in (1, 3, 5, 9, 11)]
        asked = f"How does {at[0]} {number * 7919 % 1000} meet the {at[1]} in {at[2]} {number}?"
        answer = f"By {at[3]} number {number * 31} and the {at[4]} kept at {at[0]}{number}."
        lines.append(json.dumps({"question": asked, "answer": answer}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def run_of(home: Path, base: Path, source: Path, *, keys: str = "keys.json", **data: Any) -> Run:
    chapter = {"sources": [str(source)], "engine": "local", "workers": 1, **data}
    chapter["privacy"] = {"key_file": str(home / keys), **data.get("privacy", {})}
    tree = {"name": "side", "model": {"base": str(base), "dtype": "float32"}, "training": {"context": 256}}
    return Run.create(Recipe.from_tree({**tree, "data": chapter}), home / "runs")


def prepared_beside(home: Path, base: Path) -> Prepared:
    """Another run of the same folder, which prunes at its end."""
    return prepare(run_of(home, base, write_rows(home / "other" / "rows.jsonl", 5000)))


def test_two_prepares_side_by_side_leave_each_other_their_shards(tmp_path: Path, base: Path) -> None:
    """The one that ended first pruned what the other was still reading: KeyError 'alive'."""
    run = run_of(tmp_path, base, write_rows(tmp_path / "rows.jsonl", 0))
    done = prepare(run, progress=Interrupted(lambda: prepared_beside(tmp_path, base)))
    assert done.outcome["rows"]["read"] == 60
    shards = list((tmp_path / "runs" / ".furnace" / "shards").glob("*/*/shard.json"))
    assert len(shards) == 2, "each run's one shard"
    assert not list((tmp_path / "runs").glob("*/dataset/shards.json")), "rows.json names them now"


def test_a_killed_run_finds_its_shards_again_whoever_pruned_meanwhile(tmp_path: Path, base: Path) -> None:
    run = run_of(tmp_path, base, write_rows(tmp_path / "rows.jsonl", 0))

    def kill() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(run, progress=Interrupted(kill))
    left = run.path("dataset", ".manifest.json.abc.tmp")  # as kill -9 in the middle of a write leaves it
    left.write_text("{")
    prepared_beside(tmp_path, base)
    assert prepare(run).outcome["shards"] == {"all": 1, "redone": 0}
    assert not left.exists()


def test_equal_inputs_have_equal_ids_wherever_their_files_lie(tmp_path: Path, base: Path) -> None:
    """The manifest held paths and random ids of keys: the same data, the same keys elsewhere, another id."""
    source = write_rows(tmp_path / "rows.jsonl", 0)
    with source.open("a") as file:
        file.write(
            json.dumps({"question": "Who is at 13912345678?", "answer": "Ask 王小明 at zhang@example.com."}) + "\n"
        )
    watched, asked = write_rows(tmp_path / "watched.jsonl", 900, 5), write_rows(tmp_path / "asked.jsonl", 950, 5)

    def id_of(folder: str, **privacy: Any) -> str:
        home = tmp_path / folder
        home.mkdir(exist_ok=True)
        (home / "asked.jsonl").write_text(asked.read_text())
        (home / "names.txt").write_text("王小明\n")
        run = run_of(
            tmp_path, base, source, validation=str(watched),
            cleaning={"evaluation_sets": [str(home / "asked.jsonl")]},
            privacy={"names": str(home / "names.txt"), "key_file": str(home / "keys.json"), **privacy},
        )  # fmt: skip
        done = prepare(run)
        dataset = run.path("dataset", "1-sft", "manifest.json").read_text()
        assert str(home) not in dataset
        return str(done.outcome["dataset_id"])

    first = id_of("one")
    assert id_of("two") == first, "other keys make no other rows where nothing is pseudonymised"
    aliased = {"actions": {"mobile": "pseudonym"}}
    third = id_of("one", **aliased)
    (tmp_path / "three").mkdir()
    shutil.copy2(tmp_path / "one" / "keys.json", tmp_path / "three" / "keys.json")
    assert id_of("three", **aliased) == third != first, "one key file under two paths"
    assert id_of("two", **aliased) != third, "other pseudonyms"


@pytest.mark.parametrize("spoilt", ["a part", "the parent", "all of it", "gone"])
def test_a_changed_manifest_is_told_by_why_and_audit(tmp_path: Path, base: Path, spoilt: str) -> None:
    """Manifests were made of digests, and nobody ever looked whether they still agree."""
    run = run_of(tmp_path, base, write_rows(tmp_path / "rows.jsonl", 0), engine="inline")
    prepare(run)
    runs = ("--runs", tmp_path / "runs")
    danlu("audit", "head", *runs)
    assert (
        danlu("audit", "verify", *runs).code == 0
        and danlu("why", "rows.jsonl:3", *runs, "--json").json["changed"] == []
    )
    path = run.path("dataset", "1-sft" if spoilt == "the parent" else ".", "manifest.json")
    manifest = read_json(path)
    inputs, parents = manifest["parts"].get("inputs", []), manifest["parents"]
    if spoilt == "a part":
        inputs[0]["sha256"] = "0" * 64
    made = {
        "a part": manifest,
        "the parent": make_manifest("dataset", manifest["parts"], ["r_" + "0" * 64]),
        "all of it": make_manifest("rows", manifest["parts"] | {"inputs": []}, parents),
        "gone": None,
    }[spoilt]
    path.unlink() if made is None else write_json(path, made)
    told = danlu("audit", "verify", *runs, "--json")
    assert told.code == 1 and not told.json["is_whole"] and not told.json["problems"]
    (fault,) = told.json["manifests"]
    assert fault["error"] == ("flow.manifest_unreadable" if spoilt == "gone" else "flow.manifest_changed")
    said = danlu("why", "rows.jsonl:3", *runs)
    assert said.code == 0 and "manifest" in said.out
    assert danlu("why", "rows.jsonl:3", *runs, "--json").json["changed"] == [fault]
