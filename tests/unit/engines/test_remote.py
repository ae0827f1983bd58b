"""The remote engine against a real loopback server that misbehaves on demand."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from remote_kit import SAMPLING, Server, ask, completion, echo, sse, status

from danlu.core.errors import EngineError
from danlu.data.sample import Message
from danlu.engines.cache import AnswerCache
from danlu.engines.thinking import ThinkingDropper, drop_thinking
from danlu.engines.wire import retry_after_s
from danlu.openai.address import Address
from danlu.openai.turns import turn_of
from http_kit import Quiet
from waiting_kit import PATIENCE_S

KEY = "sk-very-secret-0123456789"


def test_answers_come_in_order_and_no_more_than_allowed_run_at_once(server: Server) -> None:
    running, most, lock, crowded = set(), [], threading.Lock(), threading.Event()

    def slow(handler: Quiet, body: dict[str, Any]) -> None:
        with lock:
            running.add(id(handler))
            most.append(len(running))
        if len(running) == 3:
            crowded.set()
        assert crowded.wait(PATIENCE_S), "three are never asked at once"
        with lock:
            running.discard(id(handler))
        echo(handler, body)

    server.acts = [slow] * 12
    seen: list[int] = []
    answers = server.engine(num_parallel=3).generate([ask(f"问题{i}") for i in range(12)], SAMPLING, watch=seen.append)
    assert [answer.text for answer in answers] == [f"回答 问题{i}" for i in range(12)]
    assert sum(seen) == 12 and max(most) == 3
    assert answers[0].num_prompt_tokens == 10 and answers[0].num_tokens == 5 and answers[0].finish == "stop"


def test_busy_then_broken_then_garbled_then_fine(server: Server) -> None:
    server.acts = [
        status(429, b'{"error":"slow down"}', Retry_After="0"), status(500, b"oops"),
        status(200, b'{"choices": [{"mess'), status(200, b'{"choices": []}'),
    ]  # fmt: skip
    (answer,) = server.engine().generate([ask("hi")], SAMPLING)
    assert answer.text == "回答 hi" and len(server.requests) == 5


def test_the_server_s_own_wish_to_wait_is_respected(server: Server) -> None:
    server.acts = [status(429, Retry_After="0.4")]
    began = time.monotonic()
    server.engine(backoff_s=0.001).generate([ask("hi")], SAMPLING)
    assert time.monotonic() - began >= 0.39


def test_retry_after_is_read_as_seconds_or_date() -> None:
    assert retry_after_s("3") == 3.0
    assert retry_after_s("-1") == 0.0
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after_s("soon") is None and retry_after_s(None) is None


def test_a_server_that_keeps_failing_spoils_one_answer_only(server: Server) -> None:
    server.acts = [status(503, b"down")] * 2
    bad, good = server.engine(num_retries=1, num_parallel=1).generate([ask("a"), ask("b")], SAMPLING)
    assert bad.finish == "error" and "503" in bad.error and good.text == "回答 b"


def test_a_declined_question_is_not_asked_again(server: Server) -> None:
    server.acts = [status(400, b'{"error": "maximum context length"}')]
    (answer,) = server.engine().generate([ask("long")], SAMPLING)
    assert answer.finish == "error" and "maximum context" in answer.error and len(server.requests) == 1


def test_slow_server_times_out(server: Server) -> None:
    given_up = threading.Event()
    server.acts = [lambda handler, body: given_up.wait(PATIENCE_S) and None]
    (answer,) = server.engine(timeout_s=0.15, num_retries=0).generate([ask("hi")], SAMPLING)
    given_up.set()
    assert answer.finish == "error" and "0.15 s" in answer.error


def test_a_reply_shorter_than_promised_is_tried_again(server: Server) -> None:
    def cut(handler: Quiet, body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "5000")
        handler.end_headers()
        handler.wfile.write(completion("half")[:30])
        handler.close_connection = True

    server.acts = [cut]
    (answer,) = server.engine().generate([ask("hi")], SAMPLING)
    assert answer.text == "回答 hi" and len(server.requests) == 2


def test_nobody_there(server: Server) -> None:
    engine = server.engine(num_retries=1)
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(EngineError) as caught:
        engine.generate([ask("hi")], SAMPLING)
    assert caught.value.key == "engine.unreachable" and "2" in caught.value.text and caught.value.fix


@pytest.mark.parametrize(("code", "key"), [(401, "unauthorized"), (403, "unauthorized"), (404, "not_served"), (302, "redirect"), (307, "redirect")])  # fmt: skip
def test_faults_of_all_questions_stop_at_once(server: Server, code: int, key: str) -> None:
    server.acts = [status(code, b"no", Location="http://169.254.169.254/latest")] * 50
    with pytest.raises(EngineError) as caught:
        server.engine(num_parallel=1).generate([ask(str(i)) for i in range(20)], SAMPLING)
    assert caught.value.key == f"engine.{key}" and caught.value.fix
    assert len(server.requests) == 1, "neither asked again nor followed elsewhere"


def test_key_is_sent_and_never_told(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    key_file = tmp_path / "key"
    key_file.write_text(KEY + "\n")
    monkeypatch.setenv("MY_TEACHER_KEY", KEY)
    server.acts = [status(401, f"key {KEY} is wrong".encode())]
    engine = server.engine(key_file=key_file, cache=AnswerCache(tmp_path / "cache"))
    with pytest.raises(EngineError) as caught:
        engine.generate([ask("a")], SAMPLING)
    engine.generate([ask("b")], SAMPLING)
    assert [headers["Authorization"] for headers, _ in server.requests] == [f"Bearer {KEY}"] * 2
    told = [
        str(caught.value),
        repr(engine),
        repr(engine.endpoint),
        engine.digest,
        caplog.text,
        json.dumps(engine.bill.to_json()),
    ]
    told += [path.read_text() for path in (tmp_path / "cache").rglob("*.json")]
    assert len(told) > 6 and not any(KEY in text for text in told)
    assert server.engine(key_variable="MY_TEACHER_KEY").generate([ask("c")], SAMPLING)[0].text
    assert server.requests[-1][0]["Authorization"] == f"Bearer {KEY}"
    server.engine().generate([ask("d")], SAMPLING)
    assert "Authorization" not in server.requests[-1][0], "no variable is read that nobody named"


@pytest.mark.parametrize("content", ["", "two words", "a\r\nX-Evil: 1", "密钥"])
def test_a_key_that_could_split_a_header_is_refused(server: Server, tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content)
    with pytest.raises(EngineError) as caught:
        server.engine(key_file=tmp_path / "key")
    assert caught.value.key == "engine.bad_key"
    with pytest.raises(EngineError) as caught:
        server.engine(key_file=tmp_path / "absent")
    assert caught.value.key == "engine.no_key_file"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://h/v1", "host/v1", "http://", "http://me:pass@h/v1", "http://h:99999/v1", "http://h/v1?k=1", "http://[::1/v1", "http://me:pass@[::1/v1", "http://h/模型/v1", "http://h/a b/v1", f"http://{'x' * 70}.cn/v1"])  # fmt: skip
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(EngineError) as caught:
        Address.parse(url)
    assert caught.value.key == "engine.bad_url" and "pass@" not in caught.value.text


def test_address_is_kept_without_a_trailing_slash() -> None:
    assert str(Address.parse("https://h:8443/v1/")) == "https://h:8443/v1"
    assert str(Address.parse("http://[::1]:8000/v1")) == "http://[::1]:8000/v1"


LYING = [
    {"choices": [{"message": {"content": 7}}]}, {"choices": [{"message": {"content": {"a": 1}}}]}, {"choices": {"0": 1}},
    {"choices": [{"message": {"content": "", "tool_calls": [{"function": {}}]}}]}, [], "text", None, {"choices": []},
    {"choices": [{"message": {"content": [7]}}]}, {"choices": [{"message": None}]},
]  # fmt: skip


@pytest.mark.parametrize("reply", LYING)
def test_a_reply_of_another_shape_spoils_one_answer_only(server: Server, reply: object) -> None:
    server.acts = [status(200, json.dumps(reply).encode())] * 2
    first, second = server.engine(num_retries=1, num_parallel=1).generate([ask("a"), ask("b")], SAMPLING)
    assert first.finish == "error" and "not a chat completion" in first.error and second.finish == "stop"


@pytest.mark.parametrize("usage", [[1], "x", {"prompt_tokens": -5}, {"prompt_tokens": 3, "completion_tokens": "many"},
                                   {"prompt_tokens": True}, {"prompt_tokens": 3, "completion_tokens": -1}])  # fmt: skip
def test_counts_that_are_none_are_estimated(server: Server, usage: object) -> None:
    reply = {"choices": [{"message": {"content": [{"type": "text", "text": "四个字呀"}]}}], "usage": usage}
    server.acts = [status(200, json.dumps(reply).encode())]
    (answer,) = server.engine().generate([ask("a")], SAMPLING)
    assert answer.text == "四个字呀" and answer.num_prompt_tokens > 0 and answer.num_tokens == 6


def test_a_reply_that_repeats_the_key_is_not_quoted(server: Server, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    for filler in (b"", b"x" * 70):  # also where the quotation would end amid the key
        server.acts = [status(200, filler + f"\x1b[2JBearer {KEY}".encode())]
        (answer,) = server.engine(key_file=tmp_path / "key", num_retries=0).generate([ask("a")], SAMPLING)
        assert answer.finish == "error" and KEY[:6] not in answer.error and "\x1b" not in answer.error


@pytest.mark.parametrize("event", ["[]", "7", '{"choices": [{"delta": {"content": 7}}]}', '{"choices": [7]}'])
def test_a_stream_of_another_shape_is_a_fault_in_words(server: Server, event: str) -> None:
    def stream(handler: Quiet, body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(f"data: {event}\n\n".encode())
        handler.close_connection = True

    server.acts = [stream]
    with pytest.raises(EngineError, match="not a chat chunk"):
        list(server.engine(num_retries=0).stream(ask("a"), SAMPLING))


def test_stream_pieces_join_to_the_answer(server: Server) -> None:
    pieces = list(server.engine().stream(ask("hi"), SAMPLING))
    assert pieces == ["回", "答 hi"] and server.requests[0][1]["stream"] is True


def test_a_stream_cut_midway_says_so_and_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.acts = [sse("half", done=False)]
    engine = server.engine(cache=AnswerCache(tmp_path))
    stream = engine.stream(ask("hi"), SAMPLING)
    assert next(stream) == "half"
    with pytest.raises(EngineError) as caught:
        next(stream)
    assert caught.value.key == "engine.stream_cut" and not list(tmp_path.rglob("*.json"))
    assert "".join(engine.stream(ask("hi"), SAMPLING)) == "回答 hi"


def test_a_stream_that_fails_before_the_first_piece_is_tried_again(server: Server) -> None:
    server.acts = [status(502, b"gateway"), sse(done=False), status(200, b"{}", Content_Type="application/json")]
    assert "".join(server.engine().stream(ask("hi"), SAMPLING)) == "回答 hi" and len(server.requests) == 4


def test_a_stream_left_early_frees_its_connection(server: Server) -> None:
    engine = server.engine()
    stream = engine.stream(ask("hi"), SAMPLING)
    next(stream)
    stream.close()
    assert engine.generate([ask("again")], SAMPLING)[0].text == "回答 again"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [("<think>a\nb</think>\n\n答", "答"), ("答 <think>x</think>", "答 <think>x</think>"), ("<think>cut", ""), ("<th", "<th"), ("", ""), (" \n<think></think>x", "x")],
)  # fmt: skip
def test_thinking_is_dropped_only_in_front(server: Server, raw: str, shown: str) -> None:
    assert drop_thinking(raw) == shown
    server.acts = [sse(*raw), status(200, completion(raw)), status(200, completion(raw))]
    assert "".join(server.engine().stream(ask("q"), SAMPLING)) == shown
    assert server.engine().generate([ask("q")], SAMPLING)[0].text == shown
    assert server.engine(keep_thinking=True).generate([ask("q")], SAMPLING)[0].text == raw


@given(st.lists(st.sampled_from(["<think>", "</think>", "<thi", "nk>", "</", "答", "\n", " ", "x"]), max_size=12))
def test_dropping_in_pieces_equals_dropping_at_once(pieces: list[str]) -> None:
    dropper = ThinkingDropper()
    assert "".join(map(dropper.feed, pieces)) + dropper.close() == drop_thinking("".join(pieces))


def test_tool_calls_both_ways(server: Server) -> None:
    call = {"id": "c1", "function": {"name": "lookup", "arguments": {"城市": "北京"}}}
    turn = turn_of(Message("assistant", "", tool_calls=(call,)))
    assert json.loads(turn["tool_calls"][0]["function"]["arguments"]) == {"城市": "北京"}
    server.acts = [status(200, completion(None, calls=[turn["tool_calls"][0]]))]
    (answer,) = server.engine().generate([ask("天气?")], SAMPLING)
    assert answer.text == '<tool_call>\n{"name":"lookup","arguments":{"城市":"北京"}}\n</tool_call>'


def test_scoring_is_refused_in_words(server: Server) -> None:
    with pytest.raises(EngineError) as caught:
        server.engine().score([])
    assert caught.value.key == "engine.cannot_score" and "native" in caught.value.fix


def test_remote_needs_no_torch() -> None:
    code = "import sys, danlu.engines.remote; print(sorted({'torch', 'transformers', 'requests', 'httpx'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
