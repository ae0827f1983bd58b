"""Run directories: found again, reused by content, one writer, torn lines survived, foreign formats refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.core.errors import DanluError, ExportError, RunError
from danlu.core.files import read_json, write_json
from danlu.recipe import Recipe
from danlu.run import migrate
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


def test_a_created_run_has_the_recipe_that_a_reopened_one_has(tmp_path: Path) -> None:
    """Values left open (alpha, lr) were filled only on reopening, so that the first repetition trained twice."""
    created = Run.create(Recipe.from_tree({"name": "a"}), tmp_path)
    assert created.recipe.model_dump() == Run.open(created.folder).recipe.model_dump()


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


HOLD = "import sys\nfrom pathlib import Path\nfrom danlu.run.lock import locked\nwith locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    input()\n"


def test_one_writer_per_run_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"held\n"
    with pytest.raises(RunError, match=str(child.pid)), locked(path):
        pass
    child.kill()
    child.wait()
    with locked(path):
        assert path.read_text() == str(os.getpid())
        with locked(path):
            pass
        assert path.read_text() == str(os.getpid())
    with locked(path):
        pass


def test_a_process_number_left_in_the_lock_means_nothing(tmp_path: Path) -> None:
    """A killed process's number may belong to somebody else by now."""
    path = tmp_path / ".lock"
    path.write_text(str(os.getppid()))
    with locked(path):
        pass


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"inputs": "d1"}', b'{"inputs": "d1", "outcome": 3}', b"\xff"])
def test_a_torn_record_of_an_act_is_no_record(tmp_path: Path, torn: bytes) -> None:
    run = Run.create(Recipe.from_tree({}), tmp_path)
    run.path("acts", "prepare.json").write_bytes(torn)
    assert run.finished("prepare", "d1") is None
    assert run.outcome("prepare") is None
    run.finish("prepare", "d1", {"rows": 3})
    assert run.finished("prepare", "d1") == run.outcome("prepare") == {"rows": 3}
    run.forget("prepare")
    assert run.outcome("prepare") is None


@pytest.mark.parametrize("name", ["run.json", "recipe.json"])
@pytest.mark.parametrize("torn", [b"{", b"[]", b"null"])
def test_a_damaged_run_is_named_with_its_file(tmp_path: Path, name: str, torn: bytes) -> None:
    run = Run.create(Recipe.from_tree({}), tmp_path)
    run.path(name).write_bytes(torn)
    with pytest.raises(DanluError, match=r"json|format"):
        Run.open(run.folder)


def test_a_run_without_its_recipe_is_named(tmp_path: Path) -> None:
    run = Run.create(Recipe.from_tree({}), tmp_path)
    run.path("recipe.json").unlink()
    with pytest.raises(RunError, match=r"recipe\.json"):
        Run.open(run.folder)


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


TORN = {
    "empty": b"", "cut off": b'{"format": 1, "kind": "mer', "a list": b"[]", "no words": b"\xff\xfe",
    "nothing in it": b'{"format": 1, "digest": ""}',
    "something else": b'{"format": 1, "digest": "", "canaries": [], "colour": "red"}',
    "other shapes": b'{"format": 1, "digest": "", "canaries": [], "kind": 3, "name": "a", "base": {}, "parents": {}, '
                    b'"contract": {}, "parity": {"verdict": "pass"}, "created": ""}',
    "no verdict": b'{"format": 1, "digest": "", "canaries": [], "kind": "m", "name": "a", "base": {}, "parents": {}, '
                  b'"contract": {}, "parity": {}, "created": ""}',
    "canaries that sing not": b'{"format": 1, "digest": "", "canaries": [1]}',
}  # fmt: skip


@pytest.mark.parametrize("written", TORN.values(), ids=TORN)
def test_a_torn_or_foreign_manifest_is_told_to_people(tmp_path: Path, written: bytes) -> None:
    """Whoever reads one: a copy that was cut off ended `danlu serve` and `danlu bundle` with a traceback."""
    (tmp_path / "artifact.json").write_bytes(written)
    with pytest.raises(ExportError) as caught:
        Manifest.read(tmp_path)
    assert caught.value.key == "run.bad_manifest" and "artifact.json" in caught.value.text


def test_a_manifest_whose_list_was_edited_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    Manifest("merged", "a", {}, {}, {}, (), {"verdict": "pass"}, "now").write(tmp_path)
    tree = read_json(tmp_path / "artifact.json")
    write_json(tmp_path / "artifact.json", tree | {"files": {"a.txt": "0" * 64}})
    with pytest.raises(ExportError) as caught:
        Manifest.read(tmp_path)
    assert caught.value.key == "run.tampered"


def test_an_older_format_is_migrated_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two steps, the next opening goes on where it stood."""
    run = Run.create(Recipe.from_tree({}), tmp_path)
    done: list[str] = []

    def rename_plan(folder: Path) -> None:
        done.append("plan")
        (folder / "plan.json").rename(folder / "forecast.json")

    def fail(folder: Path) -> None:
        done.append("fail")
        raise KeyboardInterrupt

    (run.folder / "plan.json").write_text("{}")
    monkeypatch.setattr(migrate, "FORMAT", migrate.FORMAT + 2)
    monkeypatch.setattr(migrate, "STEPS", {1: rename_plan, 2: fail})
    with pytest.raises(KeyboardInterrupt):
        Run.open(run.folder)
    monkeypatch.setattr(migrate, "STEPS", {1: rename_plan, 2: lambda folder: done.append("last")})
    Run.open(run.folder)
    assert done == ["plan", "fail", "last"]
    assert read_json(run.path("run.json"))["format"] == 3 and (run.folder / "forecast.json").exists()
