"""What a walk over folders does not read is told, in the language of whoever asks."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from danlu.core.messages import current_language, set_language
from danlu.data.finding import find_files
from danlu.data.flow.conveyor import convey
from danlu.data.flow.passing import Passing
from danlu.data.flow.plan import plan_shards
from danlu.data.flow.store import Store
from danlu.data.flow.work import Task, Work
from danlu.data.ledger import Entry, Ledger
from danlu.data.sources import read

ROW = '{"question": "公司几点上班？", "answer": "上午九点。"}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "data"
    (found / ".git").mkdir(parents=True)
    (found / "a.jsonl").write_text(ROW, "utf-8")
    for name in ("~$b.docx", ".hidden.jsonl", "Thumbs.db"):
        (found / name).write_text(ROW, "utf-8")
    (tmp_path / "elsewhere").mkdir()
    (found / "linked").symlink_to(tmp_path / "elsewhere")
    (found / "gone.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    if hasattr(os, "mkfifo"):
        os.mkfifo(found / "pipe")
    return found


def test_all_that_a_walk_leaves_out_is_counted_and_named(folder: Path) -> None:
    remarks: list[Entry] = []
    assert [file.path.name for file in find_files([folder], remarks)] == ["a.jsonl"]
    assert {one.reason: one.values["num"] for one in remarks} == {
        "note_hidden_files": 4, "note_linked_folders": 1, "note_dead_links": 1, "note_no_files": 1,
    }  # fmt: skip
    assert all(name in str(remarks) for name in (".git", "~$b.docx", "Thumbs.db", "linked", "gone.jsonl", "pipe"))
    ledger = Ledger()
    assert len(list(read([folder], ledger))) == 1 and len(ledger.notes) == 4


def test_a_glob_tells_of_dead_links_too(folder: Path) -> None:
    remarks: list[Entry] = []
    assert len(find_files([str(folder / "*.jsonl")], remarks)) == 1
    assert [one.reason for one in remarks] == ["note_dead_links"]


def test_notes_are_told_in_the_language_of_whoever_asks_and_not_of_whoever_read(folder: Path, tmp_path: Path) -> None:
    (folder / "b.csv").write_text("姓名,工号,备注\n张三,001,\n李四,002,多\n", "utf-8")
    plan, store = plan_shards([folder]), Store(tmp_path / "store")
    try:
        set_language("zh")
        first = convey(plan, Passing(), store, engine="local", num_workers=2).ledger()
        assert any("按文档读取" in note for note in first.notes) and any("隐藏" in note for note in first.notes)
        set_language("en")
        again = convey(plan, Passing(), store, engine="local").ledger()
        assert again.remarks == first.remarks and any("taken as a document" in note for note in again.notes)
        assert convey(plan, Passing(), store, engine="inline").ledger().remarks == first.remarks
    finally:
        set_language(None)


def test_whoever_does_the_work_speaks_the_language_of_whoever_asked(folder: Path, tmp_path: Path) -> None:
    """A worker process went by its locale."""
    (shard,) = plan_shards([folder]).shards
    try:
        set_language("zh")
        sent = pickle.dumps(Work(Passing(), Store(tmp_path / "store")))
        set_language("en")  # another process
        pickle.loads(sent)(Task("ab" * 32, shard))
        assert current_language() == "zh"
    finally:
        set_language(None)
