"""What a kill, a full or damaged disk, or a worker that dies does to the flow: named, made again, never trained on."""

from __future__ import annotations

import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flow_kit import Shout, content_of, write_rows

from danlu.core.errors import DataError
from danlu.data.flow.conveyor import convey
from danlu.data.flow.executors.local import Local
from danlu.data.flow.passing import Passing
from danlu.data.flow.piece import joined, num_rows
from danlu.data.flow.plan import plan_shards
from danlu.data.flow.store import Store, passing_digest, shard_key
from danlu.data.flow.work import Task, Work
from progress_kit import Notes
from waiting_kit import PATIENCE_S, has_ended, until_true


def test_a_lost_worker_is_named(tmp_path: Path) -> None:
    """The system had killed a worker for memory, and the run waited for ever."""
    pytest.importorskip("pyarrow")
    plan = plan_shards([write_rows(tmp_path / "a.jsonl", 40000)], shard_bytes=200_000)
    work = Work(Passing(), Store(tmp_path / "store"))
    tasks = [Task(shard_key(shard, passing_digest(work.passing)), shard) for shard in plan.shards]
    running = Local(2).run(work, tasks)
    next(running)
    children = [int(pid) for pid in _children(os.getpid())]
    assert children
    os.kill(children[0], signal.SIGKILL)
    with pytest.raises(DataError) as caught:
        list(running)
    assert caught.value.key == "flow.worker_lost" and caught.value.values["code"] == -9
    until_true(lambda: all(map(has_ended, children)), lambda: "workers were left behind")


@pytest.mark.parametrize("fault", ["here", "there"])
def test_a_plugin_that_cannot_be_sent_is_named_at_once(tmp_path: Path, fault: str) -> None:
    """The thread that was to send it died of it, and the run waited for ever."""
    pytest.importorskip("pyarrow")
    plan = plan_shards([write_rows(tmp_path / "a.jsonl", 400)], shard_bytes=8000)
    local = Local(2)

    class Nested(Shout):  # the class of a function's inside: pickle does not find it again
        pass

    stage = Nested() if fault == "here" else Shout()  # a worker process does not know this file's classes
    work = Work(Passing((stage,)), Store(tmp_path / "store"))
    running = local.run(work, [Task(shard_key(shard, "x"), shard) for shard in plan.shards])
    with ThreadPoolExecutor(1) as pool, pytest.raises(DataError) as caught:
        pool.submit(next, running).result(timeout=PATIENCE_S)
    assert caught.value.key == ("flow.not_sendable" if fault == "here" else "flow.worker_lost")


def _children(pid: int) -> list[str]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == str(pid) and b"flow.worker" in (stat.parent / "cmdline").read_bytes():
            found.append(stat.parent.name)
    return found


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    store = Store(tmp_path / "store")
    plan = plan_shards([write_rows(tmp_path / "a.jsonl", 10)])
    convey(plan, Passing(), store, engine="local")
    left = store.folder / "fresh" / "999999999-x"
    shutil.copytree(store.folder / "shards", left)
    store.prune(convey(plan, Passing(), store, engine="local").keys)
    assert not left.exists()


def test_a_shard_that_a_power_cut_damaged_is_made_again(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    store = Store(tmp_path / "store")
    plan = plan_shards([write_rows(tmp_path / "a.jsonl", 50)])
    found = convey(plan, Passing(), store, engine="local")
    shard = store.find(found.keys[0])
    assert shard is not None
    (shard.folder / "0000" / "rows.arrow").write_bytes(b"")
    assert store.find(found.keys[0]) is None
    again = convey(plan, Passing(), store, engine="local")
    assert again.num_redone == 1 and len(content_of(again)) == num_rows(again.pieces) > 0


@pytest.mark.parametrize("harm", ["byte", "empty", "missing", "columns", "facts"])
def test_a_shard_whose_bytes_changed_is_made_again_and_told(tmp_path: Path, harm: str) -> None:
    """Bytes edited in the store were trained on; a flipped one came out as a traceback."""
    pytest.importorskip("pyarrow")
    store, plan = Store(tmp_path / "store"), plan_shards([write_rows(tmp_path / "a.jsonl", 50)])
    before = content_of(convey(plan, Passing(), store, engine="local"))
    (place,) = (tmp_path / "store").glob("shards/*/*")
    file = place / {"columns": "0000/columns.bin", "facts": "shard.json"}.get(harm, "0000/rows.arrow")
    data = bytearray(file.read_bytes())
    if harm == "missing":
        file.unlink()
    elif harm == "empty":
        file.write_bytes(b"")
    elif harm == "facts":
        file.write_bytes(
            bytes(data).replace(b'"num_read": 50', b'"num_read": 51').replace(b'"num_read":50', b'"num_read":51')
        )
        assert file.read_bytes() != bytes(data)
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    assert store.find(place.name) is None
    again = convey(plan, Passing(), store, engine="local", progress=(told := Notes()))
    assert again.num_redone == 1 and content_of(again) == before
    assert any("a.jsonl" in line for line in told.said), told.said


def test_a_piece_that_breaks_while_it_is_read_is_told_plainly(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    store = Store(tmp_path / "store")
    found = convey(plan_shards([write_rows(tmp_path / "a.jsonl", 50)]), Passing(), store, engine="local")
    (rows,) = (tmp_path / "store").glob("shards/*/*/0000/rows.arrow")
    for content, key in ((b"x" * 100, "flow.shard_damaged"), (b"", "flow.shard_damaged"), (None, "flow.shard_gone")):
        rows.unlink() if content is None else rows.write_bytes(content)
        with pytest.raises(DataError) as caught:
            list(found.pieces[0].rows())
        assert caught.value.key == key


def test_a_removed_piece_is_no_empty_one(tmp_path: Path) -> None:
    """Another run had pruned the shard; its columns were {} and a KeyError came out, far away."""
    pytest.importorskip("pyarrow")
    found = convey(plan_shards([write_rows(tmp_path / "a.jsonl", 10)]), Passing(), store := Store(tmp_path / "store"),
                   engine="local")  # fmt: skip
    store.prune(set())
    with pytest.raises(DataError) as caught:
        joined(found.pieces, "alive")
    assert caught.value.key == "flow.shard_gone"


def test_a_shard_that_cannot_be_put_in_its_place_is_a_fault(tmp_path: Path) -> None:
    """A full or read-only disk was taken for somebody else's equal shard."""
    pytest.importorskip("pyarrow")
    store = Store(tmp_path / "store")
    plan = plan_shards([write_rows(tmp_path / "a.jsonl", 10)])
    key = convey(plan, Passing(), Store(tmp_path / "other"), engine="local").keys[0]
    store.folder.joinpath("shards", key[:2]).mkdir(parents=True)
    store.folder.joinpath("shards", key[:2], key).write_text("a file stands where the folder has to be")
    with pytest.raises(OSError):
        convey(plan, Passing(), store, engine="local")
