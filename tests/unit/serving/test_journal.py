"""Journals: a line before an answer and one after, chained, whole after any crash, and told when they were changed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from danlu.serving import chains
from danlu.serving.journal import START, Closing, FileJournal, Opening, is_dead, journals, tail
from waiting_kit import until_true

HERE = Path(__file__).parent

NOW = time.time()


def opening(id: str, now: float = NOW) -> Opening:
    return Opening(id, now, "abcdefghijkl", "law", "law@0123456789ab", "p-0", 100, "chat")


def closing(id: str) -> Closing:
    return Closing(id, NOW + 1, "done", 200, 30, 12, True, 0.1, 0.9)


def lines(path: Path) -> list[dict]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def written(folder: Path, num: int = 3, **knobs: object) -> Path:
    journal = FileJournal(folder, "w0", **knobs)
    for number in range(num):
        journal.opened(opening(f"r{number}"))
        journal.closed(closing(f"r{number}"))
    journal.close()
    return folder / f"{journal.name}.jsonl"


def test_what_stands_in_it(tmp_path: Path) -> None:
    began, opened, closed, ended = lines(written(tmp_path, 1))
    assert (began["n"], began["what"], began["after"]) == (0, "began", None)
    assert (opened["n"], opened["id"], opened["key"], opened["reserved_tokens"]) == (1, "r0", "abcdefghijkl", 100)
    assert (closed["n"], closed["of"], closed["prompt_tokens"], closed["answer_tokens"]) == (2, 1, 30, 12)
    assert ended["what"] == "ended"
    assert (next(iter(tmp_path.iterdir())).stat().st_mode & 0o777) == 0o600 and tmp_path.stat().st_mode & 0o077 == 0


def test_a_line_costs_little(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, "w0")
    best = 1.0
    for _ in range(5):
        began = time.process_time()
        for number in range(500):
            journal.opened(opening(f"r{number}"))
            journal.closed(closing(f"r{number}"))
        best = min(best, (time.process_time() - began) / 1000)
    journal.close()
    assert best < 60e-6  # 6 us on a quiet core


def test_a_request_is_closed_once(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, "w0")
    journal.opened(opening("r"))
    for _ in range(3):
        journal.closed(closing("r"))
    journal.closed(closing("never opened"))
    journal.close()
    (path,) = journals(tmp_path)
    assert [line["what"] for line in lines(path)] == ["began", "opened", "closed", "ended"]


def test_the_next_start_follows_the_last(tmp_path: Path) -> None:
    first = written(tmp_path)
    n, head = tail(first)
    second = written(tmp_path)
    assert lines(second)[0]["after"] == [first.stem, n, head]
    assert not chains.flaws_of(chains.verify(tmp_path))


def test_a_large_file_and_a_new_day_are_turned_over(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, "w0", most_bytes=2000)
    for number in range(20):
        journal.opened(opening(f"r{number}"))
    journal.opened(opening("tomorrow", NOW + 2 * 86_400))
    for number in range(20):
        journal.closed(closing(f"r{number}"))
    files = journals(tmp_path)
    assert len(files) > 3 and all(path.stat().st_size < 2400 for path in files[:-1])
    assert all(is_dead(path) for path in files[:-1]) and not is_dead(files[-1])
    closed_elsewhere = [line for line in lines(files[-1]) if line["what"] == "closed"]
    assert {line["in"] for line in closed_elsewhere} == {path.stem for path in files[:-1]}
    journal.close()
    assert not chains.flaws_of(chains.verify(tmp_path))


def test_a_file_whose_requests_are_open_stays_held(tmp_path: Path) -> None:
    """Else a reader would settle as lost what is still being answered."""
    journal = FileJournal(tmp_path, "w0", most_bytes=400)
    journal.opened(opening("slow"))
    journal.opened(opening("fast"))
    old = journals(tmp_path)[0]
    assert not is_dead(old)
    journal.closed(closing("slow"))
    journal.closed(closing("fast"))
    assert is_dead(old)
    journal.close()


def _tampered(path: Path, change: object) -> list[str]:
    whole = path.read_bytes()
    path.write_bytes(change(whole))
    found = [flaw.what for flaw in chains.flaws_of(chains.verify(path.parent))]
    path.write_bytes(whole)
    return found


def test_what_is_changed_is_told(tmp_path: Path) -> None:
    path = written(tmp_path)
    rows = path.read_bytes().splitlines(keepends=True)
    assert _tampered(path, lambda whole: whole) == []
    assert _tampered(path, lambda whole: whole.replace(b'"answer_tokens":12', b'"answer_tokens":1', 1)) == ["broken"]
    assert _tampered(path, lambda whole: b"".join(rows[:3] + rows[4:])) == ["chain"]
    assert "chain" in _tampered(path, lambda whole: b"".join(rows[:3] + rows[2:]))
    assert _tampered(path, lambda whole: b"".join(rows[1:])) == ["chain", "headless"]
    assert _tampered(path, lambda whole: whole.replace(rows[2], b"{}\n")) == ["broken", "broken"]
    assert _tampered(path, lambda whole: b"".join(rows[:4])) == []  # cut off: for that there are anchors


def test_a_torn_last_line_is_a_crash_not_a_crime(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    (chain,) = chains.verify(tmp_path)
    assert chain.is_torn and not chain.flaws
    assert lines(written(tmp_path))[0]["after"][1] == 6  # the next start follows the last whole line
    assert not chains.flaws_of(chains.verify(tmp_path))


def test_a_missing_file_between_two_is_told(tmp_path: Path) -> None:
    written(tmp_path)
    second = written(tmp_path)
    written(tmp_path)
    second.unlink()
    assert [(flaw.journal, flaw.what) for flaw in chains.flaws_of(chains.verify(tmp_path))] == [(second.stem, "gone")]


def test_a_rewritten_file_is_told_by_the_next_ones_first_line(tmp_path: Path) -> None:
    """Somebody makes the whole chain anew, hashes and all."""
    first = written(tmp_path)
    written(tmp_path)
    forged = tmp_path / "forged"
    written(forged, 2)
    (made,) = journals(forged)
    first.write_bytes(made.read_bytes())
    assert {flaw.what for flaw in chains.flaws_of(chains.verify(tmp_path))} == {"cut_off"}


def test_a_cut_off_end_is_told_by_an_anchor(tmp_path: Path) -> None:
    path = written(tmp_path)
    pins = {name: {n: head} for name, n, head in chains.heads(tmp_path)}
    rows = path.read_bytes().splitlines(keepends=True)
    assert not chains.flaws_of(chains.verify(tmp_path, pins))
    path.write_bytes(b"".join(rows[:-2]))
    assert [flaw.what for flaw in chains.flaws_of(chains.verify(tmp_path, pins))] == ["cut_off"]
    path.unlink()
    assert [flaw.what for flaw in chains.flaws_of(chains.verify(tmp_path, pins))] == ["gone"]


def test_a_full_disk_stops_openings_and_keeps_what_is_owed(tmp_path: Path) -> None:
    """A real file that may not grow: the limit of file sizes stands in for a full disk."""
    code = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.path[:0] = sys.argv[2:]
from test_journal import closing, opening
from danlu.serving.journal import FileJournal
journal = FileJournal(Path(sys.argv[1]), "w0", sync_s=10)
journal.opened(opening("first"))
size = (Path(sys.argv[1]) / f"{journal.name}.jsonl").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
for attempt in range(3):
    try:
        journal.opened(opening("refused"))
    except OSError as error:
        print("refused")
journal.closed(closing("first"))
print("failing", journal.is_failing)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.opened(opening("second"))
journal.closed(closing("second"))
journal.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(HERE), str(HERE.parents[1])], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refused", "refused", "refused", "failing", "True"]
    (path,) = journals(tmp_path)
    told = [(line["what"], line.get("id", line.get("of"))) for line in lines(path)]
    assert told == [
        ("began", None),
        ("opened", "first"),
        ("closed", 1),
        ("opened", "second"),
        ("closed", 3),
        ("ended", None),
    ]
    assert not chains.flaws_of(chains.verify(tmp_path))


def test_two_workers_of_one_name_do_not_meet(tmp_path: Path) -> None:
    """A reload starts the new worker while the old one still answers."""
    old = FileJournal(tmp_path, "w0")
    old.opened(opening("r"))
    new = FileJournal(tmp_path, "w0")
    new.opened(opening("s"))
    old.closed(closing("r"))
    new.closed(closing("s"))
    old.close()
    new.close()
    assert len(journals(tmp_path)) == 2 and not chains.flaws_of(chains.verify(tmp_path))


def test_an_empty_file_of_a_writer_that_died_at_once(tmp_path: Path) -> None:
    (tmp_path / "w0-20260101T000000000000abcd.jsonl").touch()
    assert tail(journals(tmp_path)[0]) == (-1, START)
    written(tmp_path)
    assert not chains.flaws_of(chains.verify(tmp_path))


def test_lines_are_on_the_disk_without_being_asked(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path, "w0", sync_s=0.01)
    journal.opened(opening("r"))
    until_true(lambda: not journal._files[-1]._is_dirty)
    journal.close()


@pytest.mark.parametrize("worker", ["", "a/b", "a-b", "../x", "w 0"])
def test_a_workers_name_is_no_path(tmp_path: Path, worker: str) -> None:
    with pytest.raises(AssertionError):
        FileJournal(tmp_path, worker)
    assert not os.listdir(tmp_path)
