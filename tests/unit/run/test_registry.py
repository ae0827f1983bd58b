"""The registry: numbers, aliases, the way back, and what becomes of it when something breaks."""

import multiprocessing
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import DanluError, RunError
from danlu.core.files import write_text
from danlu.run.artifact import Manifest
from danlu.run.audit import NAME as AUDIT_LOG
from danlu.run.audit import AuditLog
from danlu.run.registry import NAME, Registry, Version
from waiting_kit import PATIENCE_S


def artifact(runs: Path, run: str, content: str) -> Manifest:
    folder = runs / run / "artifacts" / "merged"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.txt").write_text(content)
    facts = Manifest("merged", "law", {"name": "ember", "digest": "b"}, {}, {}, (), {"verdict": "pass"}, "2026-01-01")
    return facts.write(folder)


def version_of(runs: Path, run: str, content: str, name: str = "law") -> Version:
    manifest = artifact(runs, run, content)
    return Version(name, 0, f"{run}/artifacts/merged", manifest.digest, "merged", run, "", "")


def registry_of(runs: Path, num: int = 3) -> Registry:
    registry = Registry(runs)
    for number in range(1, num + 1):
        assert registry.add(version_of(runs, f"law-{number}", f"weights {number}")).number == number
    return registry


def test_numbers_rise_and_the_same_artefact_keeps_its_own(tmp_path: Path) -> None:
    registry = registry_of(tmp_path)
    again = registry.add(version_of(tmp_path, "law-2", "weights 2"))
    assert again.number == 2
    assert registry.resolve("law").number == 3
    assert registry.resolve("law:1").run == "law-1"
    assert registry.add(version_of(tmp_path, "med-1", "other", name="med")).label == "med:1"


def test_aliases_and_the_way_back(tmp_path: Path) -> None:
    registry = registry_of(tmp_path)
    for number in (1, 2, 3):
        registry.point("law", "prod", number)
    assert registry.resolve("law@prod").number == 3
    assert registry.roll_back("law", "prod").number == 2
    assert registry.resolve("law@prod").number == 2
    registry.point("law", "prod", 3)
    registry.point("law", "candidate", 1)
    assert registry.read().aliases_of(registry.resolve("law:1")) == ["candidate"]
    with pytest.raises(RunError) as caught:
        registry.roll_back("law", "candidate")
    assert caught.value.key == "registry.nothing_before"


def test_what_is_withdrawn_is_not_gone_back_to(tmp_path: Path) -> None:
    registry = registry_of(tmp_path)
    for number in (1, 2, 3):
        registry.point("law", "prod", number)
    with pytest.raises(RunError) as caught:
        registry.withdraw("law", 3, reason="leaks")
    assert caught.value.key == "registry.in_use"
    registry.withdraw("law", 2, reason="leaks")
    assert registry.roll_back("law", "prod").number == 1
    with pytest.raises(RunError):
        registry.point("law", "prod", 2)
    with pytest.raises(RunError):
        registry.open(registry.resolve("law:2"))
    registry.withdraw("law", 3, reason="late")
    assert registry.resolve("law").number == 1


def test_files_that_changed_are_not_opened(tmp_path: Path) -> None:
    registry = registry_of(tmp_path, 1)
    version = registry.resolve("law")
    assert registry.open(version).is_dir()
    kept = tmp_path / version.artifact
    (kept / "weights.txt").unlink()
    (kept / "weights.txt").write_text("others")
    with pytest.raises(DanluError):
        registry.open(version)
    Manifest("merged", "law", {"name": "ember", "digest": "b"}, {}, {}, (), {"verdict": "pass"}, "2026-01-01").write(
        kept
    )
    with pytest.raises(RunError) as caught:  # a manifest of its own does not help
        registry.open(version)
    assert caught.value.key == "registry.changed"


def test_a_run_that_goes_on_takes_nothing_from_a_version(tmp_path: Path) -> None:
    """danlu replaces files; it never writes into them."""
    registry = registry_of(tmp_path, 1)
    folder = tmp_path / "law-1" / "artifacts" / "merged"
    write_text(folder / "weights.txt", "trained again")
    shutil.rmtree(folder)
    assert (registry.open(registry.resolve("law")) / "weights.txt").read_text() == "weights 1"


def test_a_line_torn_by_a_crash_is_no_line(tmp_path: Path) -> None:
    registry = registry_of(tmp_path, 2)
    registry.point("law", "prod", 1)
    content = (tmp_path / NAME).read_bytes()
    for cut in range(len(content) - 1, content.rfind(b"\n", 0, len(content) - 1) + 1, -7):
        (tmp_path / NAME).write_bytes(content[:cut])
        assert registry.read().aliases == {}
        assert registry.resolve("law").number == 2
    registry.point("law", "prod", 2)
    assert registry.resolve("law@prod").number == 2
    assert (tmp_path / NAME).read_bytes().count(b"\n") == 3


def test_damage_in_the_middle_is_said(tmp_path: Path) -> None:
    registry = registry_of(tmp_path, 2)
    content = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(b"{broken\n" + content)
    with pytest.raises(RunError) as caught:
        registry.read()
    assert caught.value.key == "registry.damaged" and caught.value.where.endswith(":1")


def test_the_audit_log_knows_every_deed(tmp_path: Path) -> None:
    registry = registry_of(tmp_path, 2)
    registry.point("law", "prod", 1, reason="first")
    registry.point("law", "prod", 2)
    registry.roll_back("law", "prod")
    log = AuditLog(tmp_path / AUDIT_LOG)
    assert log.verify().is_whole
    assert log.verify().num_entries == 5


def _add(runs: str, number: int) -> None:
    folder = Path(runs)
    Registry(folder).add(version_of(folder, f"run-{number}", f"weights {number}"))


def test_writers_beside_each_other_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add, args=(str(tmp_path), number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    versions = Registry(tmp_path).read().versions["law"]
    assert sorted(version.run for version in versions) == ["run-0", "run-1", "run-2"]
    assert [version.number for version in versions] == [1, 2, 3]


@settings(max_examples=200)
@given(st.text(max_size=40))
def test_any_name_is_answered(tmp_path_factory: pytest.TempPathFactory, named: str) -> None:
    with pytest.raises(RunError):
        Registry(tmp_path_factory.getbasetemp() / "none").resolve(named)


@pytest.mark.parametrize("alias", ["", "Prod", "../x", "a b", "1st", "x" * 40])
def test_aliases_are_plain_words(tmp_path: Path, alias: str) -> None:
    registry = registry_of(tmp_path, 1)
    with pytest.raises(RunError):
        registry.point("law", alias, 1)


def test_going_back_twice_goes_back_two(tmp_path: Path) -> None:
    """The second step back once led to the very version that the first had left."""
    registry = registry_of(tmp_path)
    for number in (1, 2, 3):
        registry.point("law", "prod", number)
    assert [registry.roll_back("law", "prod").number for _ in range(2)] == [2, 1]
    with pytest.raises(RunError):
        registry.roll_back("law", "prod")
    registry.point("law", "prod", 3)
    assert registry.roll_back("law", "prod").number == 1


def test_a_version_that_lost_its_line_is_said(tmp_path: Path) -> None:
    registry = registry_of(tmp_path, 2)
    registry.point("law", "prod", 2)
    lines = (tmp_path / NAME).read_bytes().splitlines(keepends=True)
    for gone in (0, 1):
        (tmp_path / NAME).write_bytes(b"".join(line for at, line in enumerate(lines) if at != gone))
        with pytest.raises(RunError) as caught:
            registry.read()
        assert caught.value.key == "registry.damaged"


KILLED_AFTER_TELLING = """
import os, signal, sys
from pathlib import Path
from danlu.run import registry

class Told(registry.AuditLog):
    def append(self, *given, **named):
        entry = super().append(*given, **named)
        if entry.action == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)
        return entry

registry.AuditLog = Told
registry.Registry(Path(sys.argv[1])).point("law", "prod", 2, reason="better")
"""


def killed(runs: Path, action: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_AFTER_TELLING, str(runs), action], timeout=PATIENCE_S)
    assert done.returncode == -signal.SIGKILL


def told_of(runs: Path) -> list[tuple[str, int]]:
    return [(entry.action, entry.object["line"]) for entry in AuditLog(runs / AUDIT_LOG).entries()]


def test_a_deed_that_was_told_and_killed_before_its_line_did_not_happen_and_is_told_so(tmp_path: Path) -> None:
    registry = registry_of(tmp_path, 2)
    registry.point("law", "prod", 1)
    killed(tmp_path, "registry.pointed")
    assert registry.resolve("law@prod").number == 1, "what has no line has no effect"
    registry.point("law", "candidate", 2)
    assert registry.resolve("law@prod").number == 1 and registry.resolve("law@candidate").number == 2
    assert told_of(tmp_path)[2:] == [
        ("registry.pointed", 3), ("registry.pointed", 4), ("registry.not_done", 4), ("registry.pointed", 4),
    ]  # fmt: skip
    registry.point("law", "prod", 2)
    assert told_of(tmp_path)[6:] == [("registry.pointed", 5)], "it is told once"
    assert AuditLog(tmp_path / AUDIT_LOG).verify().is_whole


def test_killed_again_while_telling_it(tmp_path: Path) -> None:
    registry = registry_of(tmp_path, 2)
    killed(tmp_path, "registry.pointed")
    killed(tmp_path, "registry.not_done")
    killed(tmp_path, "registry.pointed")
    registry.point("law", "prod", 1)
    done = {line for action, line in told_of(tmp_path) if action != "registry.not_done"}
    undone = [line for action, line in told_of(tmp_path) if action == "registry.not_done"]
    assert registry.resolve("law@prod").number == 1 and len(registry.read().deeds) == 3
    assert done == {1, 2, 3} and undone == [3, 3], "each deed but the last one of line 3 is told as not done"
    assert AuditLog(tmp_path / AUDIT_LOG).verify().is_whole
