"""The conveyor: rows survive every trip, shards are cut and named by content, and no engine changes a row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flow_kit import Shout, content_of, refusals_of, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.flow.arrays import open_arrays, write_arrays
from danlu.data.flow.batches import _array
from danlu.data.flow.codec import pack_content, pack_json, pack_marks, unpack, unpack_json, unpack_marks
from danlu.data.flow.conveyor import choose_engine, convey
from danlu.data.flow.kept import keep, open_kept
from danlu.data.flow.marks import Mark, Passed, add_up
from danlu.data.flow.passing import Passing
from danlu.data.flow.piece import Row, joined, num_rows, streamed
from danlu.data.flow.plan import plan_shards
from danlu.data.flow.store import Store
from danlu.data.identity import sample_id
from danlu.data.sample import Conversation, Document, Feedback, Label, Message, Origin, Preference, Sample
from danlu.data.stage import Fate

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
