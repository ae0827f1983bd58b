"""Workers that are started before there is a plan: the same rows, nobody started in vain, and nobody left behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from danlu.data.flow.conveyor import convey
from danlu.data.flow.crew import Crew
from danlu.data.flow.passing import Passing
from danlu.data.flow.plan import plan_shards
from danlu.data.flow.store import Store

pytest.importorskip("pyarrow")
if os.name == "nt":
    pytest.skip("workers are of another kind there", allow_module_level=True)


def write_rows(path: Path, num: int) -> Path:
    rows = [{"question": f"第 {number} 个问题是什么？", "answer": f"答案 {number}。"} for number in range(num)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def workers() -> list[str]:
    """Worker processes of this one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            is_worker = b"flow.worker" in (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if fields[1] == str(os.getpid()) and is_worker:
            found.append(stat.parent.name)
    return found


def test_workers_that_got_ready_do_the_same_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.data.flow.crew.MUCH_BYTES", 1)
    monkeypatch.setattr("danlu.data.flow.conveyor.ALONE_BYTES", 1)
    path, store = write_rows(tmp_path / "a.jsonl", 400), Store(tmp_path / "store")
    half = path.stat().st_size // 2
    with Crew("local", 3, store) as crew:
        plan = plan_shards([path], shard_bytes=half, expect=crew.expect)
        assert len(workers()) == 3 > len(plan.shards) == 2
        found = convey(plan, Passing(), store, engine="local", num_workers=3, ready=crew.executor)
        assert found.num_redone == 2 and len(workers()) == 1, "who was not needed still waits"
    assert not workers()
    assert found.shards == convey(plan, Passing(), store, engine="inline").shards
    with Crew("local", 2, store) as crew:
        plan_shards([path], expect=crew.expect)
        assert crew.executor is None, "the store holds shards already"


@pytest.mark.parametrize(("engine", "much"), [("inline", 1), ("ray", 1), ("auto", 1 << 40)])
def test_nobody_gets_ready_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, much: int) -> None:
    monkeypatch.setattr("danlu.data.flow.crew.MUCH_BYTES", much)
    with Crew(engine, 2, Store(tmp_path / "store")) as crew:
        plan_shards([write_rows(tmp_path / "a.jsonl", 10)], expect=crew.expect)
        assert crew.executor is None
    assert not workers()


def test_workers_end_when_the_files_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.data.flow.crew.MUCH_BYTES", 1)
    with pytest.raises(KeyboardInterrupt), Crew("auto", 2, Store(tmp_path / "store")) as crew:
        plan_shards([write_rows(tmp_path / "a.jsonl", 10)], expect=crew.expect)
        assert len(workers()) == 2
        raise KeyboardInterrupt
    assert not workers()
