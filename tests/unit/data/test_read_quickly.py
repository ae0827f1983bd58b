"""The quick way of reading lines against the plain one: the same samples, the same account, file by file.

The plain way reads line after line and row after row; it is what the quick way falls back to, and its reference here.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import danlu.data.sources.json
from danlu.data.ledger import Ledger
from danlu.data.opening import Source
from danlu.data.plans import put_back_suspects
from danlu.data.sample import Conversation, Message, Origin, line_origin, plain_conversation, plain_message
from danlu.data.sources import FileReport, SourceSpec, read
from danlu.data.suspects import suspect_texts

SHARED = Path("../shared/data")
SIGNS = "\x00\x0c\x7f\x80\xe9\xff\u200b\u2060\ufeff\uffff鐨锟斤拷·°中a\U0001f600 \t\n<>:\"'\\/|答"
WORDS = st.one_of(
    st.sampled_from(
        ["", " ", "a", "问题一", "How?", "<user>: a <bot>: b", "x: y", '"output"', "é\xe9\xe8\xea", "\ufeff"]
    ),
    st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(SIGNS)), max_size=9),
)
ROLES = st.sampled_from(["system", "user", "assistant", "human", "gpt", "tool", "User", "function_call", "nobody"])
TURNS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": ROLES, "content": WORDS}),
        st.fixed_dictionaries({"from": ROLES, "value": WORDS}),
        st.fixed_dictionaries({"role": ROLES, "content": WORDS}, optional={"weight": st.integers(0, 2)}),
    ),
    max_size=4,
)
VALUES = st.one_of(
    WORDS, TURNS, st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False),
    st.dictionaries(WORDS, WORDS, max_size=2), st.lists(WORDS, max_size=3),
)  # fmt: skip
NAMES = st.sampled_from([
    "instruction", "input", "output", "question", "answer", "prompt", "response", "system", "history", "messages",
    "conversations", "text", "title", "label", "tools", "reasoning", "group", "chosen", "rejected", "level", "masked",
    "made_by", "flags", "id", "meta", "问题", "答案", "zh_question", "zh_answer", "a", "in\u200bput", "User Input",
])  # fmt: skip
KINDS = st.sampled_from([
    ("instruction", "output"), ("instruction", "input", "output"), ("question", "answer"), ("messages",),
    ("conversations", "tools"), ("text", "label"), ("text", "title"), ("prompt", "response", "id"),
    ("instruction", "input", "output", "system", "history"), ("chosen", "rejected", "prompt"), ("answer", "output", "q"),
])  # fmt: skip


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Lines as files have them: some rows of one shape, then others; damage between them."""
    lines: list[bytes] = []
    for _ in range(draw(st.integers(1, 4))):
        names = draw(st.one_of(KINDS, st.lists(NAMES, min_size=1, max_size=5, unique=True).map(tuple)))
        plain = draw(st.booleans())
        for _ in range(draw(st.integers(1, 5))):
            turns = names[0] in ("messages", "conversations")
            row = {name: draw((TURNS if turns and name == names[0] else WORDS) if plain else VALUES) for name in names}
            line = json.dumps(row, ensure_ascii=draw(st.booleans()))
            if draw(st.integers(0, 9)) == 0:  # a key given twice
                name = json.dumps(names[0], ensure_ascii=False)
                line = f"{line[:-1]}, {name}: {json.dumps(draw(WORDS))}}}"
            lines.append(line.encode("utf-8", draw(st.sampled_from(["replace", "replace", "surrogatepass"]))))
        damage = [b"", b"  ", b"// note", b"{broken", b"[1, 2]", b'{"a": 1} {"b": 2}', b"\xff\xfe", b"{}", b"null", b'{"a": 1,}',
                  "联通".encode("gb18030"), b"{'question': 'a', 'answer': 'b'}", b'\xef\xbb\xbf{"text": "x"}']  # fmt: skip
        lines += draw(st.lists(st.sampled_from(damage), max_size=2))
    end = draw(st.sampled_from([b"\n", b"\n", b"\r\n"]))
    return end.join(lines) + draw(st.sampled_from([b"", end]))


def account(spec: SourceSpec) -> dict[str, Any]:
    """All that is told of a file, and what was read."""
    ledger, reports = Ledger(), list[FileReport]()
    samples = list(read([spec], ledger, reports=reports))
    return {
        "samples": [repr(sample) for sample in samples], "equal": samples,
        "ledger": ledger.to_json(), "raw": [(entry.raw, entry.row) for entry in (*ledger.rejects, *ledger.changes)],
        "reports": [report.to_json() for report in reports],
    }  # fmt: skip


def plainly(spec: SourceSpec, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    with monkeypatch.context() as patch:
        patch.setattr(Source, "is_plain", False)
        patch.setattr(danlu.data.sources.json, "_gathered", iter)
        patch.setattr(danlu.data.sources.json, "_FLAT", re.compile("(?!)"))
        return account(spec)


@settings(max_examples=200)
@given(files(), st.sampled_from([None, None, None, "alpaca", "messages", "text", "prompt_completion"]))
def test_every_line_is_read_alike(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str | None) -> None:
    path = tmp_path_factory.mktemp("quick") / "rows.jsonl"
    path.write_bytes(content)
    spec = SourceSpec(path, name)
    with pytest.MonkeyPatch.context() as patch:
        assert account(spec) == plainly(spec, patch)


@settings(max_examples=120)
@given(files(), st.integers(0, 3), st.booleans())
def test_every_element_of_an_array_is_read_alike(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, damage: int, is_broken: bool
) -> None:
    path = tmp_path_factory.mktemp("quick") / "rows.json"
    lines = [line for line in content.splitlines() if line.strip()]
    joined = (b",\n", b", ", b",", b",\n\n")[damage].join(lines)
    path.write_bytes((b"[" if damage else b"[\n") + joined + (b"" if is_broken else b"]"))
    with pytest.MonkeyPatch.context() as patch:
        assert account(SourceSpec(path)) == plainly(SourceSpec(path), patch)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not beside the repository")
def test_real_files_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in sorted(SHARED.rglob("*.json*")) if 2000 < name.stat().st_size < 1_500_000]
    names = [name for name in names if name.parent.name not in ("tokenizers", "hf_generation_configs")]
    assert len(names) > 40
    num = 0
    for number, name in enumerate(names):
        content = zlib.decompressobj(31).decompress(name.read_bytes()) if name.suffix == ".gz" else name.read_bytes()
        if content.lstrip().startswith(b'[{"'):  # an array: its rows as lines, escaped or not
            lines = (json.dumps(row, ensure_ascii=number % 2 == 0) for row in json.loads(content)[:300])
            content = "\n".join(lines).encode("utf-8", "surrogatepass")
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(b"\n".join(content.split(b"\n")[:300]))
        spec = SourceSpec(path)
        found = account(spec)
        assert found == plainly(spec, monkeypatch), name
        num += len(found["samples"])
    assert num > 5_000


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_rows_of_one_shape_take_the_quick_way(
    tmp_path: Path, ensure_ascii: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above would pass if nothing ever went that way."""
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"问 {number}?", "answer": f"答：{number}", "topic": "x"} for number in range(50)]
    path.write_text("".join(json.dumps(row, ensure_ascii=ensure_ascii) + "\n" for row in rows))
    seen: list[int] = []

    def counted(values: Any, *rest: Any) -> int:
        seen.append(len(values))
        return put_back_suspects(values, *rest)

    monkeypatch.setattr("danlu.data.sources.reading.put_back_suspects", counted)
    assert len(list(read([path], Ledger()))) == 50 and seen == [49]


def test_samples_made_quickly_are_no_others() -> None:
    turns = plain_message("user", "a"), plain_message("assistant", "b")
    assert turns == (Message("user", "a"), Message("assistant", "b"))
    here = line_origin("a.jsonl", 3)
    assert here == Origin("a.jsonl", 3) and hash(here) == hash(Origin("a.jsonl", 3))
    made, told = plain_conversation(turns, here, None, {}), Conversation(turns, here)
    assert made == told and repr(made) == repr(told) and type(made) is Conversation
    with pytest.raises(AttributeError):
        made.group = "x"  # type: ignore[misc]


@given(st.lists(st.text(st.one_of(st.characters(), st.sampled_from(SIGNS)), max_size=9), min_size=1, max_size=9))
def test_no_text_that_mend_would_touch_is_missed(texts: list[str]) -> None:
    from danlu.data.mend import SUSPECT

    found = suspect_texts(texts)
    assert set(found) >= {number for number, text in enumerate(texts) if SUSPECT.search(text)}
    assert not suspect_texts(["普通的中文，café 20°C", "plain English\r\n\t", ""])


def test_line_numbers_and_origins_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\n{"text": "a"}\n\n{broken\n{"text": "b"}\n{"text": "c"}\n')
    assert [sample.origin.line for sample in read([path], Ledger())] == [2, 5, 6]
