"""The furnace as a user meets it: a folder of all sorts becomes a dataset with a report; kills, added files and other
engines change nothing; every sample can be traced."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import danlu

from danlu.core.files import read_json
from danlu.data.dataset import Dataset
from danlu.data.flow.manifest import check_manifest
from danlu.run.run import Run, list_runs
from waiting_kit import until_true

pytest.importorskip("pyarrow")

RECIPE = """
name: furnace
model: {{base: {base}, dtype: float32}}
data:
  sources: [sources]
  engine: {engine}
  workers: 2
  max_rejected: 0.9
  privacy: {{key_file: {keys}}}
  split: {{test: 0.1, validation: 0.1}}
{more}
training: {{context: 512}}
"""
WORDS = (
    "furnace ledger cedar harbour violet engine paper winter copper lantern meadow signal river marble pepper orchard "
    "canvas thunder velvet anchor basil comet dune ember falcon garnet hazel indigo jasper kernel"
).split()


def write_folder(folder: Path, *, num_files: int = 6, num_rows: int = 60) -> Path:
    """Rows of questions in several files, with twins across files, a broken line in each, and a document."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_files):
        write_file(folder / f"rows-{number}.jsonl", number, num_rows)
    (folder / "rules.md").write_text("# Rules\n\n" + "\n\n".join(f"Rule {n}: {sentence(n, 20)}." for n in range(30)))
    return folder


def write_file(path: Path, number: int, num_rows: int) -> None:
    lines = []
    for row in range(num_rows):
        told = number * 1000 + row if row % 9 else row
        asked = f"What is said about {sentence(told, 4)} in note {told}?"
        lines.append(json.dumps({"question": asked, "answer": f"{sentence(told + 7, 25)}."}))
    lines.insert(num_rows // 2, '{"question": "broken')
    path.write_text("\n".join(lines) + "\n")


def sentence(seed: int, size: int) -> str:
    draw = random.Random(seed)
    return " ".join(f"{draw.choice(WORDS)}{draw.randrange(100)}" for _ in range(size))


def write_recipe(home: Path, base: Path, *, engine: str = "local", more: str = "method: {kind: sft}") -> Path:
    path = home / f"recipe-{engine}.yaml"
    path.write_text(RECIPE.format(base=base, engine=engine, keys=home / "keys.json", more=more))
    return path


def prepared(recipe: Path, runs: Path) -> tuple[Run, dict[str, Any]]:
    said = danlu("prepare", recipe, "--runs", runs, "--json")
    assert said.code == 0, said.err
    run = Run.open(list_runs(runs)[0])
    outcome = run.outcome("prepare")
    assert outcome is not None
    return run, outcome


def digests(run: Run, outcome: dict[str, Any]) -> list[str]:
    return [Dataset.open(run.path("dataset", stage)).digest for stage in outcome["stages"]] + [outcome["dataset_id"]]


def test_a_folder_of_all_sorts_becomes_a_dataset_with_a_report(tmp_path: Path, base: Path, shared_data: Path) -> None:
    """Office files, laws, questions and broken files in one folder: every row is told, nothing is lost or guessed."""
    sources = tmp_path / "sources"
    shutil.copytree(shared_data / "documents" / "office", sources / "office", ignore=shutil.ignore_patterns("expected"))
    laws = sorted((shared_data / "documents" / "laws_md").iterdir())[:5]
    for path in [*laws, shared_data / "instruct" / "alpaca_zh_demo.json.gz"]:
        shutil.copy(path, sources / path.name)
    shutil.copytree(shared_data / "malformed", sources / "malformed")
    recipe = write_recipe(tmp_path, base, more="stages: [pretrain, sft]")
    run, outcome = prepared(recipe, tmp_path / "runs")
    rows = outcome["rows"]
    assert rows["read"] == rows["used"] + rows["rejected"] and rows["used"] > 900 and rows["rejected"] > 100
    ledger = read_json(run.path("ledger.json"))
    assert sum(ledger["reasons"].values()) == rows["rejected"]
    assert len(run.path("rejects.jsonl").read_text().splitlines()) == rows["rejected"]
    assert {"1-pretrain", "2-sft"} == set(outcome["stages"])
    for stage in outcome["stages"]:
        dataset = Dataset.open(run.path("dataset", stage))
        assert dataset.card.facts["level"] in ("public", "internal", "confidential", "restricted")
        assert len(dataset.part("train")) > 5
        check_manifest(read_json(run.path("dataset", stage, "manifest.json")), stage)
    manifest = read_json(run.path("dataset", "manifest.json"))
    check_manifest(manifest, "rows")
    told = {file["file"] for file in manifest["parts"]["inputs"]}
    assert told == {str(path) for path in sources.rglob("*") if path.is_file()}, "every file is in the manifest"
    for language in ("en", "zh"):
        assert outcome["dataset_id"] in run.path(f"data_report.{language}.html").read_text()
    assert outcome["certificate"]["twins_across"] == 0 and outcome["certificate"]["near_twins_across"] == 0


def test_killed_at_any_moment_it_ends_with_the_same_dataset(tmp_path: Path, base: Path) -> None:
    """kill -9 while reading, while writing shards, while comparing, while encoding: started again, same digests."""
    write_folder(tmp_path / "sources", num_files=10, num_rows=400)
    recipe = write_recipe(tmp_path, base)
    run, outcome = prepared(recipe, tmp_path / "whole")
    draw = random.Random(3407)
    store = tmp_path / "killed" / ".furnace" / "shards"
    moments: list[Any] = [
        lambda: len(list(store.glob("*/*/shard.json"))) >= 1,
        lambda: len(list(store.glob("*/*/shard.json"))) >= 6,
        lambda: len(list(store.glob("*/*/shard.json"))) >= 11 and draw.random() < 0.3,
        lambda: bool(list((tmp_path / "killed").glob("*/dataset/prompts.json"))),
        lambda: bool(list((tmp_path / "killed").glob("*/dataset/.1-sft.*"))),
        lambda: bool(list((tmp_path / "killed").glob("*/dataset/1-sft"))),
        lambda: bool(list((tmp_path / "killed").glob("*/dataset/verdicts.npz"))),
    ]
    num_killed = 0
    for moment in moments:
        num_killed += kill_when(moment, recipe, tmp_path / "killed")
    assert num_killed >= 4, "most of these moments were met"
    again, found = prepared(recipe, tmp_path / "killed")
    assert digests(again, found) == digests(run, outcome)
    assert found["rows"] == outcome["rows"] and found["certificate"] == outcome["certificate"]
    assert not list((tmp_path / "killed" / ".furnace" / "fresh").glob("*")), "what the killed ones left is gone"
    assert not list(again.path("dataset").glob(".*")), "no half-written dataset lies about"
    third, _ = prepared(recipe, tmp_path / "killed")
    assert third.folder == again.folder


def kill_when(moment: Any, recipe: Path, runs: Path) -> bool:
    """Start prepare, kill it and its workers when the moment has come; whether it was still running then."""
    child = subprocess.Popen(
        [sys.executable, "-m", "danlu", "prepare", str(recipe), "--runs", str(runs), "-q"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    until_true(lambda: child.poll() is not None or moment(), every_s=0.002)
    was_running = child.poll() is None
    if was_running:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    return was_running


def test_only_an_added_file_is_read(tmp_path: Path, base: Path) -> None:
    """A thousand documents were parsed again because one was added."""
    write_folder(tmp_path / "sources", num_files=8)
    recipe = write_recipe(tmp_path, base)
    _, first = prepared(recipe, tmp_path / "runs")
    assert first["shards"] == {"all": 9, "redone": 9}
    write_file(tmp_path / "sources" / "rows-9.jsonl", 9, 60)
    run, second = prepared(recipe, tmp_path / "runs")
    assert second["shards"] == {"all": 10, "redone": 1}
    assert second["dataset_id"] != first["dataset_id"] and second["rows"]["read"] == first["rows"]["read"] + 61
    (tmp_path / "sources" / "rows-9.jsonl").unlink()
    _, third = prepared(recipe, tmp_path / "runs")
    assert third["shards"] == {"all": 9, "redone": 0} and third["dataset_id"] == first["dataset_id"]
    store = tmp_path / "runs" / ".furnace" / "shards"
    assert len(list(store.glob("*/*/shard.json"))) == 9, "the removed file's shard is gone from the store"
    assert run.folder.is_dir()


def test_every_engine_makes_the_same_dataset(tmp_path: Path, base: Path) -> None:
    write_folder(tmp_path / "sources")
    engines = ["inline", "local"]
    found = {}
    for engine in engines:
        run, outcome = prepared(write_recipe(tmp_path, base, engine=engine), tmp_path / engine)
        found[engine] = [*digests(run, outcome), run.path("rejects.jsonl").read_bytes(), outcome["rows"]]
    assert found["inline"] == found["local"]


def test_ray_makes_the_same_dataset(tmp_path: Path, base: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install danlu[scale]")
    write_folder(tmp_path / "sources")
    run, outcome = prepared(write_recipe(tmp_path, base, engine="inline"), tmp_path / "inline")
    other, found = prepared(write_recipe(tmp_path, base, engine="ray"), tmp_path / "ray")
    assert digests(other, found) == digests(run, outcome)
    assert found["shards"]["redone"] == 7


def test_why_tells_where_a_sample_came_from_and_where_it_went(tmp_path: Path, base: Path) -> None:
    write_folder(tmp_path / "sources", num_files=2)
    recipe = write_recipe(tmp_path, base, engine="inline", more="stages: [pretrain, sft]")
    run, outcome = prepared(recipe, tmp_path / "runs")
    runs = ("--runs", tmp_path / "runs", "--json")
    row = Dataset.open(run.path("dataset", "2-sft")).part("train").rows[3]
    (told,) = danlu("why", row["sample"], *runs).json["samples"]
    assert told["origin"]["file"].endswith(row["origin"].rpartition(":")[0].rpartition("/")[2])
    assert f"{told['origin']['file']}:{told['origin']['line']}" == row["origin"]
    assert told["origin"]["state"] == "same" and told["part"] == "train"
    manifest = read_json(run.path("dataset", "2-sft", "manifest.json"))
    assert {"stage": "2-sft", "part": "train", "item": 3, "dataset": manifest["id"]} in told["items"]
    assert manifest["id"] == outcome["dataset_id"] and [used["run"] for used in told["used_by"]] == [run.name]
    (place,) = danlu("why", row["origin"], *runs).json["samples"]
    (piece,) = danlu("why", told["text"].splitlines()[1], run.name, *runs).json["samples"]
    assert place["id"] == piece["id"] == told["id"]
    document = danlu("why", "Rule 12:", *runs).json["samples"][0]
    assert document["kind"] == "document" and document["origin"]["start"] == 0 and document["origin"]["end"] > 100
    (broken,) = danlu("why", "rows-0.jsonl:31", *runs).json["samples"]
    assert broken["left_out"]["reason"] == "json_cut" and not broken["items"]
    twin = danlu("why", "rows-1.jsonl:10", *runs).json["samples"][0]
    assert twin["left_out"]["reason"] == "duplicate" and twin["left_out"]["twin"]["where"].endswith("rows-0.jsonl:10")
    nothing = danlu("why", "no such words anywhere", *runs)
    assert nothing.code == 2 and nothing.json["error"] == "flow.nothing_fits"
    (tmp_path / "sources" / "rules.md").write_text("other rules")
    assert danlu("why", "Rule 12:", *runs).json["samples"][0]["origin"]["state"] == "changed"


def test_why_speaks_both_languages(tmp_path: Path, base: Path) -> None:
    write_folder(tmp_path / "sources", num_files=1)
    prepared(write_recipe(tmp_path, base, engine="inline"), tmp_path / "runs")
    english = danlu("why", "rows-0.jsonl:2", "--runs", tmp_path / "runs").out
    chinese = danlu("why", "rows-0.jsonl:2", "--runs", tmp_path / "runs", "--lang", "zh").out
    assert "the file is unchanged" in english and "used by run" in english
    assert "文件未变" in chinese and "用于运行" in chinese
