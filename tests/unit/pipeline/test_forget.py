"""Who learnt from whom: a run that stands on an affected run's artefact is affected, and trained after it."""

import json
import shlex
import time
import tracemalloc
from pathlib import Path

import pytest

from danlu.core.errors import DataError, RunError
from danlu.core.files import write_json
from danlu.data.privacy import Keyring, write_records
from danlu.engines.cache import AnswerCache
from danlu.pipeline.audit import check_acts, log_of, note_acts, rotate_keys
from danlu.pipeline.forget import forget, verify_forgotten
from danlu.pipeline.why import why
from danlu.recipe import Recipe
from danlu.run.run import Run


def made(runs: Path, name: str, base: str = "ember", forgetting: str | None = None) -> Run:
    data = {"sources": [], "privacy": {"forget": forgetting}}
    tree = {"name": name, "model": {"base": base}, "data": data, "method": {"kind": "sft"}}
    return Run.create(Recipe.from_tree(tree, file="recipe.yaml"), runs)


def record(keyring: Keyring, sample: str, value: str, action: str = "keep") -> dict[str, object]:
    return {
        "sample": sample, "file": "a.jsonl", "line": 1, "text": 0, "start": 0, "end": 2, "type": "name", "detector": "t/1",
        "score": 0.9, "level": "confidential", "action": action, "mac": keyring.mac("name", value), "key": keyring.current,
    }  # fmt: skip


@pytest.fixture
def house(tmp_path: Path) -> tuple[Path, Keyring]:
    return tmp_path / "runs", Keyring.open(tmp_path / "safe" / "keys")


def test_runs_on_an_affected_artefact_are_found_with_it(house: tuple[Path, Keyring]) -> None:
    runs, keyring = house
    first = made(runs, "first")
    write_records(first.path("privacy", "records", "0.jsonl"), [record(keyring, "s_1", "张伟")])
    merged = first.path("artifacts", "merged")
    merged.mkdir(parents=True)
    (merged / "artifact.json").write_text(json.dumps({"digest": "abc"}))
    second = made(runs, "second", str(merged))
    (second.path("artifacts", "merged")).mkdir(parents=True)
    third = made(runs, "third", str(second.path("artifacts", "merged")))
    made(runs, "other")
    plan = forget(["张伟"], runs, keyring.path)
    told = {run["run"]: run["stands_on"] for run in plan["runs"]}
    assert told == {first.name: "", second.name: first.name, third.name: second.name}
    assert {"kind": "merged", "digest": "abc"} in plan["runs"][0]["artifacts"]
    assert {step["run"]: step["after"] for step in plan["steps"]} == told
    verdict = verify_forgotten(["张伟"], runs, keyring.path)
    assert set(verdict["left"]) == set(told)


def test_samples_made_of_an_affected_one_are_affected_unless_it_was_masked(house: tuple[Path, Keyring]) -> None:
    runs, keyring = house
    run = made(runs, "first")
    children = [{"sample": f"s_{n}", "type": "derived", "parents": [f"s_{n - 1}"]} for n in (2, 3)]
    masked = [{"sample": "s_9", "type": "derived", "parents": ["s_8"]}]
    rows = [*children[::-1], record(keyring, "s_1", "张伟"), record(keyring, "s_8", "张伟", "token"), *masked]
    write_records(run.path("privacy", "records", "0.jsonl"), rows)
    ((traced),) = forget(["张伟"], runs, keyring.path)["runs"]
    assert {row["sample"] for row in traced["samples"]} == {"s_1", "s_2", "s_3", "s_8"}


def test_a_row_that_was_dropped_is_no_trace(house: tuple[Path, Keyring]) -> None:
    runs, keyring = house
    run = made(runs, "first")
    run.finish("prepare", "i", {"stages": []})
    write_records(run.path("privacy", "records", "0.jsonl"), [record(keyring, "x_1", "张伟", "drop")])
    assert not forget(["张伟"], runs, keyring.path)["steps"]
    assert verify_forgotten(["张伟"], runs, keyring.path)["is_clean"]


def test_two_requests_one_after_the_other_are_both_kept(house: tuple[Path, Keyring]) -> None:
    """The second plan must not bring back whom the first one took out."""
    runs, keyring = house
    run = made(runs, "first")
    write_records(
        run.path("privacy", "records", "0.jsonl"), [record(keyring, "s_1", "张伟"), record(keyring, "s_2", "李娜")]
    )
    (step,) = forget(["张伟"], runs, keyring.path)["steps"]
    again = made(runs, "again", forgetting=step["overrides"][0].partition("=")[2])
    write_records(again.path("privacy", "records", "0.jsonl"), [record(keyring, "s_2", "李娜")])
    steps = {step["run"]: step["overrides"][0] for step in forget(["李娜"], runs, keyring.path)["steps"]}
    listed = json.loads(Path(steps[again.name].partition("=")[2]).read_text())
    assert {keyring.mac("name", name) for name in ("张伟", "李娜")} <= set(listed["macs"]) and len(listed["names"]) == 2


def test_what_one_run_forgot_before_is_not_forgotten_by_the_others(house: tuple[Path, Keyring]) -> None:
    """One list file was written anew for every run, with the old list of each before it."""
    runs, keyring = house
    first = made(runs, "a-first")
    write_records(first.path("privacy", "records", "0.jsonl"), [record(keyring, "s_1", "王芳")])
    (step,) = forget(["王芳"], runs, keyring.path)["steps"]
    again = made(runs, "b-again", forgetting=step["overrides"][0].partition("=")[2])
    other = made(runs, "c-other")
    for run in (again, other):
        write_records(run.path("privacy", "records", "0.jsonl"), [record(keyring, "s_2", "李娜")])
    plan = forget(["李娜"], runs, keyring.path)
    lists = {
        step["run"]: json.loads(Path(step["overrides"][0].partition("=")[2]).read_text()) for step in plan["steps"]
    }
    wang, li = keyring.mac("name", "王芳"), keyring.mac("name", "李娜")
    assert {wang, li} <= set(lists[again.name]["macs"])
    assert li in lists[other.name]["macs"] and wang not in lists[other.name]["macs"]
    assert wang not in json.loads(Path(plan["list"]).read_text())["macs"]


def test_the_command_can_be_pasted(tmp_path: Path) -> None:
    runs, keyring = tmp_path / "our runs (new)", Keyring.open(tmp_path / "keys")
    run = made(runs, "first")
    write_records(run.path("privacy", "records", "0.jsonl"), [record(keyring, "s_1", "张伟")])
    (step,) = forget(["张伟"], runs, keyring.path)["steps"]
    assert shlex.split(step["command"]) == ["danlu", "run", str(run.path("recipe.json")), *step["overrides"]]


def test_nothing_is_proven_of_a_run_that_was_never_prepared(house: tuple[Path, Keyring]) -> None:
    """None was left: 0 tokens were looked through."""
    runs, keyring = house
    run = made(runs, "first")
    verdict = verify_forgotten(["张伟"], runs, keyring.path)
    assert not verdict["is_clean"] and verdict["unprepared"] == [run.name]


def test_kept_replies_are_searched_too(house: tuple[Path, Keyring]) -> None:
    """A name in a teacher's reply, or in what the base said for replay, was called clean."""
    runs, keyring = house
    made(runs, "first").finish("prepare", "i", {"stages": []})
    for folder in ("replies", "replay"):
        AnswerCache(runs / ".furnace" / folder).keep("ab" * 32, {"text": f"他叫张伟，在{folder}", "finish": "stop"})
    verdict = verify_forgotten(["张伟"], runs, keyring.path)
    assert not verdict["is_clean"] and [name.split("/")[0] for name in verdict["left"][".furnace"]] == [
        "replies",
        "replay",
    ]
    assert verify_forgotten(["李娜"], runs, keyring.path)["is_clean"]


def test_a_shard_that_cannot_be_read_forbids_a_clean_verdict(house: tuple[Path, Keyring]) -> None:
    """It may hold the name; it was passed over, and the verdict was clean."""
    runs, keyring = house
    made(runs, "first").finish("prepare", "i", {"stages": []})
    assert verify_forgotten(["张伟"], runs, keyring.path)["is_clean"]
    place = runs / ".furnace" / "shards" / "cd" / ("cd" * 32)
    place.mkdir(parents=True)
    (place / "shard.json").write_text('{"format": 4, "files": {')
    verdict = verify_forgotten(["张伟"], runs, keyring.path)
    assert not verdict["is_clean"] and verdict["damaged"] == ["shards/cdcdcdcdcdcd"] and not verdict["left"]


def test_rows_that_are_gone_forbid_a_clean_verdict(house: tuple[Path, Keyring]) -> None:
    """Without the shards no row is searched: that is not the same as nothing found."""
    runs, keyring = house
    run = made(runs, "first")
    pieces = [{"shard": "cd" * 32, "piece": "0000", "rows": 3}]
    write_json(run.path("dataset", "rows.json"), {"format": 1, "pieces": pieces, "wanted": ""})
    verdict = verify_forgotten(["张伟"], runs, keyring.path)
    assert not verdict["is_clean"] and not verdict["left"] and verdict["rows_gone"] == [run.name]
    ((traced),) = forget(["张伟"], runs, keyring.path)["runs"]
    assert traced["rows_gone"]
    with pytest.raises(RunError) as caught:
        run.finish("prepare", "i", {"stages": []})
        why("张伟", runs)
    assert caught.value.key == "flow.rows_gone" and run.name in caught.value.text


def test_acts_are_noted_once_and_a_rotation_is_killed_safely(house: tuple[Path, Keyring]) -> None:
    runs, keyring = house
    run = made(runs, "first")
    run.finish("prepare", "i", {"stages": []})
    note_acts(runs)
    note_acts(runs)
    assert [entry.action for entry in log_of(runs).entries()] == ["prepare"]
    records = run.path("privacy", "records")
    write_records(records / "0.jsonl", [record(keyring, "s_1", "张伟")])
    keyring.rotate()  # as if killed after the first of two files
    write_records(records / "1.jsonl", [record(keyring, "s_2", "张伟")])
    rotation = rotate_keys(keyring.path, runs, destroy=True, reason="r")
    assert rotation.moved == {run.name: 2} and not rotation.lost and len(rotation.destroyed) == 2
    (traced,) = forget(["张伟"], runs, keyring.path)["runs"]
    assert len(traced["samples"]) == 2 and not traced["unreadable"]


def test_the_record_of_an_act_is_held_against_the_log(house: tuple[Path, Keyring]) -> None:
    """An edited record was not noticed, and the next head entered it as a new act."""
    runs, _ = house
    run = made(runs, "first")
    run.finish("prepare", "i", {"stages": [], "rows": 1})
    assert not check_acts(runs)
    path = run.path("acts", "prepare.json")
    path.write_text(path.read_text("utf-8").replace('"rows": 1', '"rows": 2'), "utf-8")
    note_acts(runs)
    (problem,) = check_acts(runs)
    assert problem.what == "act_changed" and log_of(runs).verify().num_entries == 1
    path.write_text("{", "utf-8")
    assert [one.what for one in check_acts(runs)] == ["act_changed"]
    run.finish("prepare", "i", {"stages": [], "rows": 3})
    assert not check_acts(runs)
    log_of(runs).path.write_bytes(b"")
    assert [(one.what, one.values["count"]) for one in check_acts(runs)] == [("missing_log", 1)]
    log_of(runs).path.unlink()
    assert [one.what for one in check_acts(runs)] == ["missing_log"] and not check_acts(runs / "nowhere")


def test_keys_among_the_runs_are_refused(house: tuple[Path, Keyring]) -> None:
    runs, _ = house
    runs.mkdir()
    for act in (lambda: forget(["x"], runs, runs / "keys"), lambda: rotate_keys(runs / "keys", runs)):
        with pytest.raises(DataError) as caught:
            act()
        assert caught.value.key == "privacy.key_inside"


def test_acts_are_noted_without_reading_all_that_was_before(house: tuple[Path, Keyring]) -> None:
    """A log of years was read and hashed anew for every request."""
    runs, _ = house
    made(runs, "first").finish("prepare", "i", {"stages": []})
    log = log_of(runs)
    entries = log.path.read_bytes()
    log.path.write_bytes(b"old\n" * (1 << 18) + entries)
    tracemalloc.start()
    note_acts(runs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    began = time.process_time()
    assert note_acts(runs).head() == next(log.newest())
    assert time.process_time() - began < 0.2 and peak < 4 << 20
    assert log.path.read_bytes().endswith(entries) and len(entries.splitlines()) == 1, "nothing was entered twice"
