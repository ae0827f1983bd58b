"""Bodies: masked before they touch a disk, both ways, their owner's alone, gone after their days."""

import datetime
import os
from pathlib import Path

import orjson

from danlu.serving.bodies import FOLDER, Bodies, answered, kept_bodies, streamed
from danlu.serving.journal import FileJournal
from danlu.serving.keys import Key

KEY = Key("abcdefghijkl", "a", ("*",), keeps_bodies=True)
QUESTION = orjson.dumps({
    "model": "law", "messages": [{"role": "user", "content": "我叫张伟，手机 13800138000，租约怎么解除？"}],
    "tools": [{"type": "function", "function": {"name": "ask", "description": "mail zhang@example.com"}}],
})  # fmt: skip
ANSWER = orjson.dumps(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "请拨打 13800138000 联系。"}}]}
)
STREAM = b"".join(
    b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": piece}}]}) + b"\n\n"
    for piece in ("请拨打 138", "0013", "8000 联系。")
)


def kept(home: Path, answer: bytes, *, is_stream: bool) -> bytes:
    bodies = Bodies(home, "w0")
    bodies.keep("chatcmpl-1", KEY, "law@1", QUESTION, answer, is_stream)
    bodies.close()
    assert bodies.num_dropped == 0
    (path,) = (home / FOLDER).iterdir()
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o077 == 0
    return path.read_bytes()


def test_personal_data_is_masked_in_and_out(tmp_path: Path) -> None:
    whole = kept(tmp_path, ANSWER, is_stream=False).decode()
    for secret in ("13800138000", "张伟", "zhang@example.com"):
        assert secret not in whole
    (body,) = kept_bodies(tmp_path)
    assert body.key == KEY.id and body.model == "law" and body.lens == "law@1"
    assert body.question["messages"][0]["content"] == "我叫<姓名>，手机 <手机号>，租约怎么解除？"
    assert body.answers[0]["content"] == "请拨打 <手机号> 联系。"


def test_a_number_that_a_stream_brings_in_pieces_is_masked(tmp_path: Path) -> None:
    assert "13800138000" not in kept(tmp_path, STREAM + b"data: [DONE]\n\n", is_stream=True).decode()
    (body,) = kept_bodies(tmp_path)
    assert body.answers == [{"content": "请拨打 <手机号> 联系。"}]


def test_a_stream_that_was_cut_off_is_kept_as_far_as_it_came() -> None:
    assert streamed(STREAM[:-25]) == [{"content": "请拨打 1380013"}]
    assert streamed(b"") == [] and answered(b"") == []


def test_tool_calls_are_put_together() -> None:
    pieces = [{"index": 0, "function": {"name": "ask", "arguments": ""}}, {"index": 0, "function": {"arguments": '{"a":'}},
              {"index": 0, "function": {"arguments": "1}"}}]  # fmt: skip
    stream = b"".join(
        b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]}) + b"\n\n"
        for piece in pieces
    )
    (message,) = streamed(stream)
    assert message["tool_calls"] == [{"function": {"name": "ask", "arguments": '{"a":1}'}}]


def test_the_journal_holds_each_bodys_digest(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "journal", "w0")
    bodies = Bodies(tmp_path, "w0", noted=lambda id, digest: journal.noted("kept", id=id, sha256=digest))
    bodies.keep("chatcmpl-1", KEY, "law@1", QUESTION, ANSWER, False)
    bodies.close()
    journal.close()
    told = next((tmp_path / "journal").iterdir()).read_text()
    assert '"what":"kept","id":"chatcmpl-1","sha256":"' in told


def test_old_days_are_deleted(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    for day in ("2026-10-01", "2026-11-20"):
        (folder / f"{day}-w0.jsonl").touch()
    bodies = Bodies(tmp_path, "w0", days=30)
    bodies.forget_old(datetime.date(2026, 11, 22))
    bodies.close()
    assert sorted(os.listdir(folder)) == ["2026-11-20-w0.jsonl"]


def test_what_cannot_be_read_is_dropped_and_counted(tmp_path: Path) -> None:
    bodies = Bodies(tmp_path, "w0")
    for nonsense in (b"no JSON", b"[1]", b'{"choices": 3}', b'{"choices": [null]}'):
        bodies.keep("chatcmpl-1", KEY, "law@1", QUESTION, nonsense, False)
    bodies.keep("chatcmpl-1", KEY, "law@1", QUESTION, b'data: {"choices": [{"delta": 3}]}\n\n', True)
    bodies.keep("chatcmpl-2", KEY, "law@1", QUESTION, ANSWER, False)
    bodies.close()
    assert bodies.num_dropped == 5 and [body.id for body in kept_bodies(tmp_path)] == ["chatcmpl-2"]
