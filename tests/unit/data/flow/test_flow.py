"""The conveyor: rows survive every trip, shards are cut and named by content, and no engine changes a row."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import DataError
from danlu.data.flow.arrays import open_arrays, write_arrays
from danlu.data.flow.batches import _array
from danlu.data.flow.codec import pack_content, pack_json, pack_marks, unpack, unpack_json, unpack_marks
from danlu.data.flow.conveyor import Conveyed, choose_engine, convey
from danlu.data.flow.executors.local import Local
from danlu.data.flow.kept import keep, open_kept
from danlu.data.flow.marks import Mark, Passed, add_up
from danlu.data.flow.passing import Passing
from danlu.data.flow.piece import Row, joined, num_rows, streamed
from danlu.data.flow.plan import plan_shards
from danlu.data.flow.store import Store, passing_digest, shard_key
from danlu.data.flow.work import Task, Work
from danlu.data.identity import sample_id
from danlu.data.sample import Conversation, Document, Feedback, Label, Message, Origin, Preference, Sample, replace
from danlu.data.stage import Fate, Outcome
from danlu.data.texts import texts_of
from progress_kit import Notes

HERE = Origin("a.jsonl", 3, 2, 10, 20, "d" * 64)
WORDS = st.text(st.characters(), max_size=12)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        WORDS, st.integers(-(2**70), 2**70), st.none(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=6,
)
CALLS = st.builds(
    lambda name, args: {"function": {"name": name, "arguments": args}}, WORDS, st.dictionaries(WORDS, JSON, max_size=3)
)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=WORDS,
    name=st.none() | WORDS,
    reasoning=st.none() | WORDS,
    tool_calls=st.lists(CALLS, max_size=2).map(tuple),
    train=st.none() | st.booleans(),
)
TURNS = st.lists(MESSAGES, min_size=1, max_size=3).map(tuple)
TOOLS = st.lists(st.dictionaries(WORDS, JSON, max_size=2), max_size=2).map(tuple)
TAGS = st.dictionaries(WORDS, JSON, max_size=2)
MORE = {"origin": st.just(HERE), "group": st.none() | WORDS, "tags": TAGS}
SAMPLES: st.SearchStrategy[Sample] = st.one_of(
    st.builds(Conversation, messages=TURNS, tools=TOOLS, **MORE),
    st.builds(Preference, prompt=TURNS, chosen=TURNS, rejected=TURNS, tools=TOOLS, **MORE),
    st.builds(Feedback, messages=TURNS, desirable=st.booleans(), tools=TOOLS, **MORE),
    st.builds(Label, text=WORDS, label=WORDS, **MORE),
    st.builds(Document, text=WORDS, title=WORDS, **MORE),
)


@settings(max_examples=300)
@given(SAMPLES)
def test_a_sample_comes_back_as_it_was_packed(sample: Sample) -> None:
    """Keys of a tool call came back sorted, and the model saw another prompt than in a run without shards."""
    content, name = pack_content(sample)
    tags = unpack_json(packed) if (packed := pack_json(sample.tags)) else {}
    back = unpack(content, sample.origin, sample.group, tags)
    assert back == sample and name == sample_id(sample)
    assert repr(back) == repr(sample), "order of keys, and 1 is not True"


@given(
    st.lists(
        st.builds(Fate, st.sampled_from(["drop", "change", "flag"]), WORDS, st.dictionaries(WORDS, JSON, max_size=2)),
        max_size=3,
    )
)
def test_marks_come_back(fates: list[Fate]) -> None:
    marks = tuple(Mark("clean", fate) for fate in fates)
    assert unpack_marks(pack_marks(marks)) == marks


@dataclass(frozen=True)
class Shout:
    """A stage for tests: drops rows about cats, flags rows about dogs, shouts the rest."""

    volume: int = 1

    @property
    def name(self) -> str:
        return "shout"

    def key(self) -> dict[str, Any]:
        return {"version": 1, "volume": self.volume}

    def __call__(self, samples: Sequence[Sample]) -> list[Outcome]:
        return [self._outcome(sample) for sample in samples]

    def _outcome(self, sample: Sample) -> Outcome:
        text = "".join(texts_of(sample))
        if "cat" in text:
            return None, (Fate("drop", "empty_text"),)
        if "dog" in text:
            return sample, (Fate("flag", "no_rows"),)
        assert isinstance(sample, Conversation)
        loud = tuple(replace(turn, content=turn.content + "!" * self.volume) for turn in sample.messages)
        return replace(sample, messages=loud), (Fate("change", "zero_width", {"num": self.volume}),)


def write_rows(path: Path, num: int, *, first: int = 0) -> Path:
    """Rows of differing length; every 10th about a cat, every 7th about a dog, every 13th no JSON."""
    lines = []
    for row in range(first, first + num):
        animal = "cat" if row % 10 == 3 else "dog" if row % 7 == 2 else "bird"
        asked = f"Question {row} about a {animal} number {row * 7919 % 1009}?"
        line = json.dumps({"question": asked, "answer": f"答案 {row} " + "ab c" * (row % 9)}, ensure_ascii=False)
        lines.append("{broken" if row % 13 == 5 else line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def content_of(found: Conveyed) -> list[tuple[Any, ...]]:
    rows = streamed(found.pieces, np.ones(num_rows(found.pieces), bool))
    return [(row.id, row.sample, row.origin, row.marks) for _, row in rows]


def refusals_of(found: Conveyed) -> list[str]:
    return [str(entry) for piece in found.pieces for entry in piece.refused]


@pytest.mark.parametrize("shard_bytes", [1, 97, 1000, 1 << 20])
def test_a_file_in_shards_is_read_as_the_whole_is(tmp_path: Path, shard_bytes: int) -> None:
    path = write_rows(tmp_path / "rows.jsonl", 120)
    whole = convey(plan_shards([path]), Passing((Shout(),)), Store(tmp_path / "store"), engine="inline")
    plan = plan_shards([path], shard_bytes=shard_bytes)
    assert sum(shard.num_bytes for shard in plan.shards) == path.stat().st_size
    parts = convey(plan, Passing((Shout(),)), Store(tmp_path / "store"), engine="inline")
    assert len(plan.shards) > 1 or shard_bytes > 5000
    assert content_of(parts) == content_of(whole)
    assert refusals_of(parts) == refusals_of(whole) and parts.num_read == whole.num_read == 120
    assert [one.to_json() for one in parts.funnel] == [one.to_json() for one in whole.funnel]
    for name in ("exact", "row_line", "alive", "row_kind"):
        assert np.array_equal(joined(parts.pieces, name), joined(whole.pieces, name))


@given(st.lists(st.sampled_from(["", "x", "中文", "y" * 40, '{"text": "a"}']), max_size=40), st.integers(1, 60))
@settings(max_examples=60)
def test_cuts_fall_on_line_ends_and_count_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], size: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    content = ('{"text": "head"}\n' + "".join(f"{line}\n" for line in lines)).encode()
    path.write_bytes(content)
    at = 0
    for shard in plan_shards([path], shard_bytes=size).shards:
        span = shard.found.span
        if span is None:
            assert len(content) <= size
            return
        assert span.start == at and span.line == content[: span.start].count(b"\n") + 1
        assert content[span.end - 1 : span.end] == b"\n"
        at = span.end
    assert at == len(content)


def test_files_that_cannot_be_cut_are_whole(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("question,answer\n" + "".join(f'"q {n}\nsecond line","a {n}"\n' for n in range(50)))
    array = tmp_path / "a.json"
    array.write_text(json.dumps([{"question": f"q {n}", "answer": "a"} for n in range(50)], indent=1))
    assert [shard.found.span for shard in plan_shards([array, table], shard_bytes=64).shards] == [None, None]


def test_every_engine_gives_the_same_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    paths = [write_rows(tmp_path / "a.jsonl", 90), write_rows(tmp_path / "b.jsonl", 50, first=300)]
    plan = plan_shards(paths, shard_bytes=1500)
    here = convey(plan, Passing((Shout(),)), Store(tmp_path / "none"), engine="inline")
    passing = Passing()  # worker processes do not know the classes of this file
    plain = convey(plan, passing, Store(tmp_path / "none"), engine="inline")
    stored = convey(plan, passing, Store(tmp_path / "store"), engine="local", num_workers=2)
    assert stored.num_redone == len(plan.shards) > 3
    assert content_of(stored) == content_of(plain) != content_of(here)
    assert refusals_of(stored) == refusals_of(plain)
    assert stored.shards == plain.shards, "manifests do not tell where the work was done"
    again = convey(plan, passing, Store(tmp_path / "store"), engine="local")
    assert again.num_redone == 0 and content_of(again) == content_of(plain)


def test_only_what_changed_is_done_again(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    store = Store(tmp_path / "store")
    first = write_rows(tmp_path / "a.jsonl", 200)

    def redone(passing: Passing = Passing((Shout(),))) -> tuple[int, int]:  # noqa: B008
        plan = (
            plan_shards([tmp_path], shard_bytes=2000)
            if not (tmp_path / "store").exists()
            else plan_shards(sorted(tmp_path.glob("*.jsonl")), shard_bytes=2000)
        )
        found = convey(plan, passing, store, engine="local", num_workers=1)
        return found.num_redone, len(plan.shards)

    num, total = redone()
    assert num == total > 5
    assert redone() == (0, total)
    write_rows(tmp_path / "b.jsonl", 5, first=900)
    assert redone() == (1, total + 1), "a new file is one new shard"
    with first.open("a") as file:
        file.write('{"question": "one more?", "answer": "yes"}\n')
    num, after = redone()
    assert num == 1 and after in (total + 1, total + 2), "rows added at the end leave earlier shards as they are"
    assert redone(Passing((Shout(2),))) == (after, after), "another parameter of a stage"
    found = store.prune(set())
    assert found > 0 and redone()[0] == after


def test_rows_kept_beside_a_run_come_back(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", 40)
    found = convey(plan_shards([path]), Passing((Shout(),)), Store(tmp_path / "store"), engine="inline")
    columns = {"part": np.zeros(num_rows(found.pieces), np.uint8)}
    keep(tmp_path / "run", found.pieces, columns, "conversation")
    kept = open_kept(tmp_path / "run", Store(tmp_path / "store"))
    assert kept is not None
    assert [(row.id, row.sample, row.origin, row.marks) for _, row in kept.rows()] == content_of(found)
    assert [str(entry) for piece in kept.pieces for entry in piece.refused] == refusals_of(found)


def test_funnels_add_up() -> None:
    one, other = Passed("clean", 10, 8), Passed("clean", 5, 5)
    one.count(Fate("drop", "empty_text"), 2)
    other.count(Fate("flag", "no_rows"))
    (total,) = add_up([[one], [other]])
    assert (total.rows_in, total.rows_out, total.dropped["empty_text"], total.flagged["no_rows"]) == (15, 13, 2, 1)


def test_little_data_needs_no_arrow_and_no_processes(tmp_path: Path) -> None:
    plan = plan_shards([write_rows(tmp_path / "a.jsonl", 300)])
    assert choose_engine("auto", plan) == "inline"
    code = (
        "import sys\nsys.modules['pyarrow'] = None\n"
        "from pathlib import Path\nfrom danlu.data.flow.conveyor import convey\nfrom danlu.data.flow.plan import plan_shards\n"
        "from danlu.data.flow.passing import Passing\nfrom danlu.data.flow.store import Store\n"
        "found = convey(plan_shards([sys.argv[1]]), Passing(), Store(Path(sys.argv[2])))\n"
        "assert found.num_read == 300 and not Path(sys.argv[2]).exists()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.jsonl"), str(tmp_path / "store")], check=True)


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
    time.sleep(0.2)
    assert not [
        pid
        for pid in children
        if Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
    ]


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
        pool.submit(next, running).result(timeout=30)
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


def test_a_dropped_row_has_no_id_and_its_reason_is_kept(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", 30)
    found = convey(plan_shards([path]), Passing((Shout(),)), Store(tmp_path / "store"), engine="inline")
    assert (
        sum("cat" in str(row.sample) for _, row in streamed(found.pieces, np.ones(num_rows(found.pieces), bool))) == 0
    )
    reasons = [entry.reason for piece in found.pieces for entry in piece.refused]
    assert reasons.count("empty_text") == 3 and reasons.count("bad_json") == 2
    rows: list[Row] = [row for _, row in streamed(found.pieces, np.ones(num_rows(found.pieces), bool))]
    assert len(rows) + len(reasons) == found.num_read == 30
    dogs = [row for row in rows if row.sample is not None and "dog" in str(row.sample)]
    assert dogs and all(row.sample is not None and row.sample.tags["flags"] == ["no_rows"] for row in dogs)


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


def test_many_documents_fit_under_a_low_limit_of_open_files(tmp_path: Path) -> None:
    """Every column kept a descriptor, some twenty-six a document: forty documents were too many."""
    pytest.importorskip("pyarrow")
    for number in range(300):
        (tmp_path / f"{number}.md").write_text(f"# Rule {number}\n\nThe lamp of room {number} is out by ten.\n")
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "from danlu.data.flow.conveyor import convey\nfrom danlu.data.flow.passing import Passing\n"
        "from danlu.data.flow.plan import plan_shards\nfrom danlu.data.flow.store import Store\n"
        "plan = plan_shards(sorted(Path(sys.argv[1]).glob('*.md')))\n"
        "found = convey(plan, Passing(), Store(Path(sys.argv[2])), engine='local', num_workers=1)\n"
        "held = [dict(piece.columns) for piece in found.pieces]\n"
        "assert len(held) == 300 and all(columns['alive'].all() and columns['units'].size for columns in held)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(tmp_path / "store")], check=True)


@given(
    st.dictionaries(
        WORDS,
        st.sampled_from(["u1", "u2", "u4", "u8", "i8", "f4", "?", "U1", "U7"]).flatmap(
            lambda kind: st.lists(st.integers(0, 4), min_size=1, max_size=2).map(
                lambda shape: np.arange(int(np.prod(shape))).astype(kind).reshape(shape)
            )
        ),
        max_size=5,
    )
)
@settings(max_examples=60)
def test_columns_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray[Any, Any]]
) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path_factory.mktemp("arrays") / "columns.bin"
    arrays = {name.encode("utf-8", "replace").decode(): array for name, array in arrays.items()}
    with path.open("wb") as file:
        write_arrays(file, arrays)
    back = open_arrays(path)
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and np.array_equal(back[name], array)
        assert back[name].shape == array.shape and not (array.size and back[name].flags.writeable)


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


@settings(max_examples=150)
@given(
    st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=20), st.lists(st.none() | st.integers(0, 2**31 - 1))
)
def test_arrays_laid_out_here_are_those_of_arrow(texts: list[str | None], numbers: list[int | None]) -> None:
    """Arrow loaded pandas in every worker only to learn that a list is none of its own."""
    pa = pytest.importorskip("pyarrow")
    texts = [text and text.encode("utf-8", "replace").decode() for text in texts]
    packed = [None if text is None else text.encode() for text in texts]
    for values, kind in (
        (texts, pa.string()), (packed, pa.binary()), (packed, pa.large_binary()), (numbers, pa.int64()),
        (numbers, pa.int32()), (texts, pa.dictionary(pa.int32(), pa.string())),
    ):  # fmt: skip
        made = _array(list(values), kind)
        made.validate(full=True)
        assert made.type == kind and made.to_pylist() == values
