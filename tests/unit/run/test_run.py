"""Run directories: found again, reused by content, one writer, torn lines survived, foreign formats refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.core.errors import ExportError, RunError
from danlu.core.files import read_json, write_json
from danlu.recipe import Recipe
from danlu.run.artifact import Canary, Manifest
from danlu.run.events import Events
from danlu.run.lock import locked
from danlu.run.run import Run, list_runs


def test_the_same_recipe_finds_its_run_again(tmp_path: Path) -> None:
    recipe = Recipe.from_tree({"name": "a"})
    first = Run.create(recipe, tmp_path)
    assert Run.create(recipe, tmp_path).folder == first.folder
    other = Run.create(Recipe.from_tree({"name": "a", "adapter": {"rank": 8}}), tmp_path)
    assert other.folder != first.folder
    assert Run.open(first.folder).recipe.digest == recipe.digest
    assert set(list_runs(tmp_path)) == {first.folder, other.folder}


def test_finished_acts_are_reused_only_for_the_same_inputs(tmp_path: Path) -> None:
    run = Run.create(Recipe.from_tree({}), tmp_path)
    assert run.finished("prepare", "d1") is None
    run.finish("prepare", "d1", {"rows": 3})
    assert run.finished("prepare", "d1") == {"rows": 3}
    assert run.finished("prepare", "d2") is None


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    run = Run.create(Recipe.from_tree({}), tmp_path)
    write_json(run.path("run.json"), read_json(run.path("run.json")) | {"format": 99})
    with pytest.raises(RunError, match="99"):
        Run.open(run.folder)
    with pytest.raises(RunError, match="not a run"):
        Run.open(tmp_path)


def test_torn_event_lines_are_survived(tmp_path: Path) -> None:
    events = Events(tmp_path / "events.jsonl")
    events.append("step", loss=1.0)
    with events.path.open("ab") as file:
        file.write(b'{"event": "step", "lo')
    events.append("step", loss=2.0)
    assert [event["loss"] for event in events.read("step")] == [1.0, 2.0]


def test_one_writer_per_run_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    path.write_text(str(child.pid))
    with pytest.raises(RunError, match=str(child.pid)), locked(path):
        pass
    child.kill()
    child.wait()
    with locked(path):
        assert path.read_text() == str(os.getpid())
        with locked(path):
            pass
    assert not path.exists()


def test_a_changed_byte_of_an_artefact_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"abc")
    manifest = Manifest(
        kind="merged",
        name="a",
        base={"name": "b", "revision": None, "digest": "d"},
        parents={"dataset": "x"},
        contract={},
        canaries=(Canary("hi", (1, 2), "yo", (3,)),),
        parity={"verdict": "pass"},
        created="now",
    ).write(tmp_path)
    again = Manifest.read(tmp_path)
    assert again == manifest and again.digest == manifest.digest
    again.check_files(tmp_path)
    (tmp_path / "model" / "weights.bin").write_bytes(b"abd")
    with pytest.raises(ExportError, match=r"weights\.bin"):
        again.check_files(tmp_path)
    (tmp_path / "model" / "weights.bin").write_bytes(b"abc")
    (tmp_path / "extra").write_bytes(b"")
    with pytest.raises(ExportError, match="extra"):
        again.check_files(tmp_path)
