"""The audit log: what a chain shows, what only an anchor shows, and what a crash leaves."""

import multiprocessing
import threading
import tracemalloc
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import RunError
from danlu.run.audit import AuditLog


def written(tmp_path: Path, num: int = 5) -> AuditLog:
    log = AuditLog(tmp_path / "audit.jsonl")
    for number in range(num):
        log.append("prepare", {"run": f"r{number}"}, reason="测试", actor="a")
    return log


def lines_of(log: AuditLog) -> list[bytes]:
    return log.path.read_bytes().splitlines(keepends=True)


def test_a_chain_is_whole_and_names_who_did_what(tmp_path: Path) -> None:
    log = written(tmp_path)
    verdict = log.verify()
    assert verdict.is_whole and verdict.num_entries == 5 and not verdict.torn
    entry = log.append("forget", {"list": "x"})
    assert entry.n == 6 and entry.actor and entry.time.endswith("+00:00")
    assert log.head() == entry and log.verify().head == entry.hash


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: [lines[0].replace(b'"r0"', b'"r9"'), *lines[1:]],
        lambda lines: [*lines[:2], *lines[3:]],
        lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
        lambda lines: [*lines[:2], lines[1], *lines[2:]],
        lambda lines: [*lines[:2], b"garbage\n", *lines[2:]],
        lambda lines: [*lines, b"garbage\n"],
    ],
    ids=["changed", "removed", "swapped", "doubled", "put in", "garbage at the end"],
)
def test_tampering_is_named_with_its_line(tmp_path: Path, spoil: object) -> None:
    log = written(tmp_path)
    log.path.write_bytes(b"".join(spoil(lines_of(log))))  # type: ignore[operator]
    verdict = log.verify()
    assert not verdict.is_whole
    assert all(problem.line >= 1 for problem in verdict.problems)


def test_a_rewritten_chain_is_whole_in_itself_and_fails_against_its_anchor(tmp_path: Path) -> None:
    log = written(tmp_path)
    anchors = tmp_path / "elsewhere" / "heads.jsonl"
    log.anchor(anchors)
    log.path.unlink()
    forged = written(tmp_path, 7)
    assert forged.verify().is_whole  # a chain alone can be made anew
    verdict = forged.verify(anchors)
    assert [problem.what for problem in verdict.problems] == ["rewritten"] and verdict.num_anchors == 1


def test_a_log_that_was_cut_off_fails_against_its_anchor(tmp_path: Path) -> None:
    log = written(tmp_path)
    log.anchor(tmp_path / "heads.jsonl")
    log.path.write_bytes(b"".join(lines_of(log)[:3]))
    assert log.verify().is_whole
    assert [problem.what for problem in log.verify(tmp_path / "heads.jsonl").problems] == ["cut_off"]
    log.append("prepare", {})
    log.append("prepare", {})
    assert [problem.what for problem in log.verify(tmp_path / "heads.jsonl").problems] == ["rewritten"]


def test_a_torn_last_line_is_named_and_recovered(tmp_path: Path) -> None:
    log = written(tmp_path)
    whole = log.path.read_bytes()
    for cut in (1, 40, len(lines_of(log)[-1]) - 2):
        log.path.write_bytes(whole[:-cut])
        verdict = log.verify()
        if cut == 1:  # only the line end is missing: the entry is there
            assert verdict.is_whole and verdict.num_entries == 5
            log.append("prepare", {})
            assert log.verify().num_entries == 6 and not log.verify().torn
            continue
        assert verdict.is_whole and [torn.what for torn in verdict.torn] == ["torn"] and verdict.num_entries == 4
        log.append("prepare", {"after": "crash"})
        verdict = log.verify()
        assert verdict.is_whole and [(torn.line, torn.what) for torn in verdict.torn] == [(5, "recovered")]
        assert [entry.action for entry in log.entries()][-2:] == ["recovered", "prepare"]
        spoilt = lines_of(log)
        spoilt[4] = b'{"n":5,"what":"else"}\n'
        log.path.write_bytes(b"".join(spoilt))
        assert not log.verify().is_whole, "a torn line may not be replaced afterwards"


def _append(path: str, name: str) -> None:
    for number in range(20):
        AuditLog(Path(path)).append("prepare", {"by": name, "number": number})


def test_processes_and_threads_append_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append, args=(str(path), f"p{n}")) for n in range(2)]
    threads = [threading.Thread(target=_append, args=(str(path), f"t{n}")) for n in range(3)]
    for each in (*workers, *threads):
        each.start()
    for each in (*workers, *threads):
        each.join()
    verdict = AuditLog(path).verify()
    assert verdict.is_whole and verdict.num_entries == 100
    for name in ("p0", "p1", "t0", "t1", "t2"):
        numbers = [entry.object["number"] for entry in AuditLog(path).entries() if entry.object["by"] == name]
        assert numbers == list(range(20))


def test_long_entries_and_long_logs_find_their_end(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("prepare", {"long": "长" * 60_000})
    log.append("prepare", {"long": "x" * 300_000})
    log.append("prepare", {})
    assert log.verify().is_whole and log.verify().num_entries == 3


def test_anchors_that_are_none_are_said_in_words(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    with pytest.raises(RunError, match=r"audit|empty|空"):
        log.anchor(tmp_path / "heads")
    log.append("prepare", {})
    with pytest.raises(RunError):
        log.verify(tmp_path / "missing")
    (tmp_path / "bad").write_bytes(orjson.dumps({"log": "audit.jsonl"}))
    with pytest.raises(RunError):
        log.verify(tmp_path / "bad")


@given(st.binary(max_size=300), st.integers(0, 400), st.binary(max_size=40))
@settings(max_examples=150)
def test_whatever_the_file_holds_it_is_read_and_goes_on(tmp_path: Path, junk: bytes, at: int, put: bytes) -> None:
    log = AuditLog(tmp_path / "fuzz.jsonl")
    log.path.unlink(missing_ok=True)
    log.append("prepare", {"a": 1})
    log.append("prepare", {"a": 2})
    whole = log.path.read_bytes()
    for content in (junk, whole[:at] + put + whole[at:], whole[:at]):
        log.path.write_bytes(content)
        before = log.verify()
        last = log.append("prepare", {})
        assert log.head() == last
        assert log.verify().is_whole or not before.is_whole, "appending makes nothing worse"


def test_one_head_written_twice_is_one(tmp_path: Path) -> None:
    log, anchors = written(tmp_path), tmp_path / "heads.jsonl"
    log.anchor(anchors)
    log.anchor(anchors)
    assert log.verify(anchors).num_anchors == 1
    log.append("train", {})
    log.anchor(anchors)
    assert log.verify(anchors).num_anchors == 2
    log.path.unlink()
    assert [one.values["n"] for one in log.verify(anchors).problems] == [5, 6]


def test_the_head_is_found_from_the_end(tmp_path: Path) -> None:
    """The whole log was read for its last line."""
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("prepare", {"run": "a"})
    with log.path.open("r+b") as file:
        first = file.read()
        file.seek(32 << 20)
        file.write(b"\n" + first)
    tracemalloc.start()
    head = log.head()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert head is not None and head.n == 1 and peak < 4 << 20


@pytest.mark.parametrize("ending", [b"", b"\n", b'{"n": 3, "ti', b'\n{"n": 3, "ti'])
def test_the_head_of_a_torn_log(tmp_path: Path, ending: bytes) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    assert log.head() is None
    log.append("prepare", {"run": "a"})
    second = log.append("train", {"run": "a"})
    log.path.write_bytes(log.path.read_bytes().removesuffix(b"\n") + ending)
    whole = ending in (b"", b"\n") or ending.startswith(b"\n")
    head = log.head()
    assert head is not None and (head == second if whole else head.action == "prepare")


@given(st.lists(st.integers(0, 90_000), max_size=6), st.booleans())
@settings(max_examples=20)
def test_newest_is_entries_backwards(tmp_path: Path, sizes: list[int], is_torn: bool) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.path.unlink(missing_ok=True)
    for size in sizes:  # longer than a block, too
        log.append("prepare", {"run": "x" * size})
    if is_torn and sizes:
        log.path.write_bytes(log.path.read_bytes()[:-7])
    assert list(log.newest()) == list(log.entries())[::-1]
