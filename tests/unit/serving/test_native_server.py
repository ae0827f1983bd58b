"""The native engine's own process: who is let in, what OpenAI's shapes hold, adapters loaded and dropped while it
answers, and that it dies with its parent. A real process on a unix socket, a tiny model."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("uvicorn", reason="no server here: pip install 'danlu[serve]'")

from danlu.adapters.lora import LoRA
from danlu.data.encode import Encoder
from danlu.data.sample import Message
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.engines.engine import Question, Sampling
from danlu.engines.native import NativeEngine
from danlu.model.build import load_model
from danlu.openai.hermes import called
from danlu.ops.attention import Bounds
from tiny_chat import QUESTIONS, tuned_engine, write_base
from waiting_kit import PATIENCE_S, until_true

SECRET = "s3cret-of-the-test"
ASK = [{"role": "user", "content": QUESTIONS[0]}]


class Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=PATIENCE_S)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(self.path))


class Engine:
    """The process and its socket."""

    def __init__(
        self, base: Path, place: Path, *more: str, words: Sequence[str] = ("-m", "danlu.engines.server")
    ) -> None:
        self.socket = place / "engine.sock"
        words = [sys.executable, *words, str(base), "--socket", str(self.socket), *more]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdin is not None
        self.process.stdin.write(f"{SECRET}\n".encode())
        self.process.stdin.flush()
        until_true(lambda: self.process.poll() is not None or self.answers(), every_s=0.1)
        if self.process.poll() is not None:
            self.end()
            raise AssertionError(self.process.stderr.read().decode() if self.process.stderr else "")

    def answers(self) -> bool:
        return self.socket.exists() and self.ask("GET", "/ready")[0] == 200

    def open(
        self, method: str, path: str, body: Any = None, key: str = SECRET, **headers: str
    ) -> tuple[Unix, http.client.HTTPResponse]:
        connection = Unix(self.socket)
        content = None if body is None else json.dumps(body).encode() if not isinstance(body, bytes) else body
        connection.request(method, path, content, {"Authorization": f"Bearer {key}"} | headers if key else headers)
        return connection, connection.getresponse()

    def ask(self, method: str, path: str, body: Any = None, key: str = SECRET, **headers: str) -> tuple[int, Any]:
        try:
            connection, reply = self.open(method, path, body, key, **headers)
        except ConnectionRefusedError:
            return 0, None
        content = reply.read()
        connection.close()
        is_json = reply.headers.get_content_type() == "application/json"
        return reply.status, json.loads(content) if is_json else content.decode()

    def chat(self, **fields: Any) -> dict[str, Any]:
        status, value = self.ask(
            "POST",
            "/v1/chat/completions",
            {"model": "base", "messages": ASK, "temperature": 0, "max_tokens": 12} | fields,
        )
        assert status == 200, value
        return value

    def events(self, **fields: Any) -> list[dict[str, Any]]:
        body = {"model": "base", "messages": ASK, "temperature": 0, "max_tokens": 12, "stream": True} | fields
        connection, reply = self.open("POST", "/v1/chat/completions", body)
        assert reply.status == 200 and reply.headers.get_content_type() == "text/event-stream"
        lines = [line for line in reply.read().decode().split("\n\n") if line]
        connection.close()
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]

    def metric(self, name: str) -> float:
        _, text = self.ask("GET", "/metrics")
        return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"danlu_engine_{name} ")))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "law"
    tuned, _ = tuned_engine(base, size=0.2)
    assert tuned.adapter is not None
    tuned.adapter.save(folder)
    return folder


@pytest.fixture(scope="module")
def engine(base: Path, adapter: Path) -> Iterator[Engine]:
    with tempfile.TemporaryDirectory() as place:  # short: a socket's path has 107 bytes
        running = Engine(base, Path(place), "--dtype", "fp32", "--adapter", f"law@1={adapter}", "--slots", "4")
        yield running
        running.end()


def native(base: Path, adapter: Path | None = None) -> NativeEngine:
    tokenizer = Tokenizer.load(base)
    model = load_model(base, dtype="fp32")
    attached = LoRA.load(adapter, model) if adapter else None
    return NativeEngine(model, Encoder(tokenizer, Template.load(base, tokenizer)), name="here", adapter=attached)


def test_nobody_comes_in_without_the_secret(engine: Engine) -> None:
    """Incident 2: an engine whose key covered some paths only. Here no door opens, known or not."""
    doors = [("GET", "/ready"), ("GET", "/metrics"), ("GET", "/v1/models"), ("POST", "/v1/chat/completions"),
             ("POST", "/tokenize"), ("POST", "/adapters"), ("DELETE", "/adapters/law@1"), ("POST", "/invocations"),
             ("POST", "/cancel")]  # fmt: skip
    for method, path in doors:
        for key in ("", "wrong", SECRET + "x", SECRET[:-1]):
            assert engine.ask(method, path, b"{}" if method == "POST" else None, key)[0] == 401, (path, key)
    assert engine.ask("GET", "/v1/models", key=SECRET)[0] == 200
    assert stat.S_IMODE(engine.socket.stat().st_mode) & 0o077 == 0, "others may not open the socket"
    told = (
        Path(f"/proc/{engine.process.pid}/cmdline").read_bytes()
        + Path(f"/proc/{engine.process.pid}/environ").read_bytes()
    )
    assert SECRET.encode() not in told


def test_answers_are_the_native_engines(engine: Engine, base: Path, adapter: Path) -> None:
    question = Question((Message("user", QUESTIONS[0]),))
    for name, folder in (("base", None), ("law@1", adapter)):
        (wanted,) = native(base, folder).generate([question], Sampling(max_new_tokens=12))
        whole = engine.chat(model=name)
        choice = whole["choices"][0]
        assert (
            choice["message"] == {"role": "assistant", "content": wanted.text}
            and choice["finish_reason"] == wanted.finish
        )
        assert whole["usage"] == {"prompt_tokens": wanted.num_prompt_tokens, "completion_tokens": wanted.num_tokens,
                                  "total_tokens": wanted.num_prompt_tokens + wanted.num_tokens}  # fmt: skip
        events = engine.events(model=name, stream_options={"include_usage": True, "continuous_usage_stats": True})
        pieces = [event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"]]
        assert "".join(pieces) == wanted.text
        assert events[-1]["choices"] == [] and events[-1]["usage"] == whole["usage"]
        counts = [event["usage"]["completion_tokens"] for event in events]
        assert counts == sorted(counts) and counts[-1] == wanted.num_tokens
    assert engine.chat(model="base")["choices"] != engine.chat(model="law@1")["choices"]


def test_ids_of_a_conversation_are_trainings(engine: Engine, base: Path) -> None:
    question = Question((Message("user", "hi"), Message("assistant", "ho"), Message("user", QUESTIONS[1])))
    turns = [{"role": turn.role, "content": turn.content} for turn in question.messages]
    status, value = engine.ask("POST", "/tokenize", {"model": "law@1", "messages": turns})
    assert status == 200 and value["tokens"] == native(base).prompt_ids(question)
    turns[0]["content"] = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    assert engine.ask("POST", "/tokenize", {"model": "base", "messages": turns})[1] == value


def test_log_probabilities_choices_seeds_and_stops(engine: Engine) -> None:
    logs = engine.chat(logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert all(one["top_logprobs"][0]["token"] == one["token"] and one["logprob"] <= 0 for one in logs)
    streamed = [
        event["choices"][0]["logprobs"]["content"]
        for event in engine.events(logprobs=True, top_logprobs=2)
        if event["choices"][0].get("logprobs")
    ]
    assert [one["token"] for part in streamed for one in part] == [one["token"] for one in logs]
    drawn = [engine.chat(temperature=1.2, seed=seed, n=3) for seed in (5, 5, 6)]
    texts = [[choice["message"]["content"] for choice in value["choices"]] for value in drawn]
    assert texts[0] == texts[1] != texts[2] and len(set(texts[0])) > 1
    assert drawn[0]["usage"]["completion_tokens"] > 12
    whole = engine.chat()["choices"][0]["message"]["content"]
    cut = engine.chat(stop=[whole[3]])["choices"][0]
    assert cut["message"]["content"] == whole[: whole.index(whole[3])].strip() and cut["finish_reason"] == "stop"
    status, value = engine.ask(
        "POST", "/v1/completions", {"model": "law@1", "prompt": [[8], [5, 6, 7]], "max_tokens": 3, "temperature": 0}
    )
    assert status == 200 and [choice["index"] for choice in value["choices"]] == [0, 1]


def test_what_cannot_be_done_is_refused_by_name(engine: Engine) -> None:
    bad = {
        "messages": [], "temperature": -1, "top_p": 0, "max_tokens": 0, "n": 99, "stop": [""], "seed": "x", "stream": "yes",
        "response_format": {"type": "xml"}, "logit_bias": {"5": 100}, "tool_choice": "sometimes", "guided_json": {},
        "stream_options": {"other": 1}, "top_logprobs": 500, "chat_template_kwargs": {"documents": "x" * 9}, "tools": [5],
        "temperature ": 1, "presence_penalty": 3, "frequency_penalty": float("nan"),
    }  # fmt: skip
    for name, given in bad.items():
        body = {"model": "base", "messages": ASK} | {name: given}
        status, value = engine.ask("POST", "/v1/chat/completions", body)
        assert status == 400 and value["error"]["message"], (name, status, value)
    for content in (b"", b"[", b"[]", b"null", b'{"model": 5}', b"\xff"):
        assert engine.ask("POST", "/v1/chat/completions", content)[0] == 400
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/x"}}]}]
    assert engine.ask("POST", "/v1/chat/completions", {"model": "base", "messages": image})[0] == 400
    assert engine.ask("POST", "/v1/chat/completions", {"model": "care@9", "messages": ASK})[0] == 404
    long = [{"role": "user", "content": "补贴八十元 " * 600}]
    status, value = engine.ask("POST", "/v1/chat/completions", {"model": "base", "messages": long})
    assert status == 400 and value["error"]["code"] == "context_length_exceeded"
    huge = "1 " * (2 << 20)
    for path, body in (
        ("chat/completions", {"messages": [{"role": "user", "content": huge}]}),
        ("completions", {"prompt": ["short", huge]}),
        ("embeddings", {"input": huge}),
    ):
        before = cpu_s(engine.process.pid)
        status, value = engine.ask("POST", f"/v1/{path}", {"model": "base"} | body)
        assert status == 400 and value["error"]["code"] == "context_length_exceeded", value
        assert "2097152 tokens at least" in value["error"]["message"].replace("2097153", "2097152")
        assert cpu_s(engine.process.pid) - before < 2.0  # 0.2 s; read first, it was three to nine
    for more in ({}, {"input": []}, {"input": "x", "dimensions": 5}, {"input": [99999]}, {"input": "x", "model": 5}):
        assert engine.ask("POST", "/v1/embeddings", {"model": "base"} | more)[0] == 400, more


def cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def means(base: Path, adapter: Path | None, texts: Sequence[str]) -> torch.Tensor:
    model = load_model(base, dtype="fp32")
    if adapter is not None:
        LoRA.load(adapter, model)
    tokenizer, found = Tokenizer.load(base), []
    for text in texts:
        ids_T = torch.tensor(tokenizer.encode_text(text))
        bounds = Bounds.of([len(ids_T)])
        with torch.inference_mode():
            found.append(model.hidden(ids_T, bounds.positions("cpu"), bounds).mean(0))
    return torch.nn.functional.normalize(torch.stack(found), dim=1)


def test_embeddings_of_base_and_adapter_beside_streams(engine: Engine, base: Path, adapter: Path) -> None:
    """Long texts in pieces, beginnings that many share, answers that are written meanwhile: the same numbers."""
    texts = [f"{QUESTIONS[0]} {word}" for word in ("差旅", "x", "leave " * 90)] + [QUESTIONS[1]]
    connection, reply = engine.open("POST", "/v1/chat/completions", LONG | {"stream": True, "n": 2})
    reply.read(200)
    before = engine.metric("answer_tokens_total")
    for name, folder in (("base", None), ("law@1", adapter)):
        status, value = engine.ask("POST", "/v1/embeddings", {"model": name, "input": texts})
        given = torch.tensor([row["embedding"] for row in value["data"]])
        assert status == 200 and (given - means(base, folder, texts)).abs().max() < 1e-4
    connection.close()
    assert value["usage"]["prompt_tokens"] == sum(len(Tokenizer.load(base).encode_text(text)) for text in texts) > 300
    after = settled(engine)
    status, value = engine.ask(
        "POST", "/v1/embeddings", {"model": "base", "input": texts * 20}, **{"x-request-id": "em"}
    )
    assert status == 200 and settled(engine) - after == value["usage"]["total_tokens"], "nothing is written"
    assert engine.ask("POST", "/cancel", {"id": "em"})[1]["usage"]["total_tokens"] == value["usage"]["total_tokens"]
    assert before <= engine.metric("answer_tokens_total")
    assert engine.ask("POST", "/v1/embeddings", {"model": "care@9", "input": "x"})[0] == 404


def test_adapters_come_and_go_while_it_answers(engine: Engine, adapter: Path, tmp_path: Path) -> None:
    assert engine.ask("POST", "/adapters", {"name": "law@2", "folder": str(adapter)})[0] == 200
    assert [model["id"] for model in engine.ask("GET", "/v1/models")[1]["data"]] == ["base", "law@1", "law@2"]
    assert engine.chat(model="law@2")["choices"] == engine.chat(model="law@1")["choices"]
    status, value = engine.ask("POST", "/adapters", {"name": "law@2", "folder": str(adapter)})
    assert status == 400 and "taken" in value["error"]["message"], "a name never comes to mean other weights"
    (tmp_path / "adapter_config.json").write_text("{}")
    assert engine.ask("POST", "/adapters", {"name": "bad", "folder": str(tmp_path)})[0] == 400
    assert engine.ask("DELETE", "/adapters/law@2")[0] == 200 and engine.ask("DELETE", "/adapters/law@2")[0] == 404
    assert engine.ask("POST", "/v1/chat/completions", {"model": "law@2", "messages": ASK})[0] == 404


def test_a_connection_that_closes_frees_its_seat(engine: Engine) -> None:
    before = engine.metric("answers_total")
    for is_stream in (True, False):
        body = {"model": "base", "messages": ASK, "max_tokens": 400, "stream": is_stream, "temperature": 2.0, "n": 4}
        connection = Unix(engine.socket)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Authorization": f"Bearer {SECRET}"})
        if is_stream:
            connection.getresponse().read(64)
        connection.close()
    settled(engine)
    assert engine.metric("running") == 0 and engine.metric("cache_places_reserved") == 0
    assert engine.metric("answers_total") <= before + 8 and engine.chat()["usage"]["completion_tokens"] > 0


LONG = {"model": "base", "messages": ASK, "max_tokens": 400, "temperature": 2.0, "seed": 3}


def settled(engine: Engine) -> float:
    """All tokens that it says it computed, once it does nothing."""
    until_true(lambda: not engine.metric("running") + engine.metric("waiting"))
    return engine.metric("prompt_tokens_total") + engine.metric("answer_tokens_total")


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("hangs_up", ["first", "later"])
def test_an_answer_that_is_cancelled_says_what_it_came_to(
    engine: Engine, is_stream: bool, num: int, hangs_up: str
) -> None:
    """Its own counters agree to the token, and its seat is free when it says so."""
    before, id = settled(engine), f"answer-{is_stream}-{num}-{hangs_up}"
    connection = Unix(engine.socket)
    body = json.dumps(LONG | {"stream": is_stream, "n": num})
    connection.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {SECRET}", "x-request-id": id})
    if is_stream:
        connection.getresponse().read(300)
    else:
        until_true(lambda: engine.metric("running"))
    if hangs_up == "first":
        connection.close()
    status, value = engine.ask("POST", "/cancel", {"id": id})
    assert status == 200 and value["usage"]["total_tokens"] == sum(list(value["usage"].values())[:2]) > 0
    assert engine.metric("running") == engine.metric("waiting") == engine.metric("cache_places_reserved") == 0
    assert settled(engine) - before == value["usage"]["total_tokens"]
    assert value["usage"]["completion_tokens"] < 400 * num
    assert engine.ask("POST", "/cancel", {"id": id})[1] == value, "asked again, it says the same"
    connection.close()


def test_what_is_cancelled_before_it_comes_is_not_answered(engine: Engine) -> None:
    """A client that hangs up at once: the end of its answer overtakes the question."""
    before = settled(engine)
    nothing = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert engine.ask("POST", "/cancel", {"id": "early"}) == (200, {"usage": nothing})
    status, value = engine.ask("POST", "/v1/chat/completions", LONG, **{"x-request-id": "early"})
    assert status == 409 and value["error"]["code"] == "cancelled" and settled(engine) == before


def test_an_answer_that_ended_by_itself_has_its_whole_bill(engine: Engine) -> None:
    status, whole = engine.ask("POST", "/v1/chat/completions", LONG | {"max_tokens": 9}, **{"x-request-id": "whole"})
    assert status == 200 and engine.ask("POST", "/cancel", {"id": "whole"})[1]["usage"] == whole["usage"]
    for bad in ({}, [], {"id": 5}, {"id": ""}, {"id": "a/b"}):
        assert engine.ask("POST", "/cancel", bad)[0] == 400


def test_one_prompt_that_cannot_be_read_keeps_the_others_from_being_computed(engine: Engine) -> None:
    """They were computed and charged to nobody."""
    before = settled(engine)
    body = {"model": "base", "prompt": [[5, 6, 7], [5] * 5000], "max_tokens": 300}
    assert engine.ask("POST", "/v1/completions", body)[0] == 400 and settled(engine) == before


DYING = """
import sys
from danlu.engines import decoding, server
add = decoding.Decoding.add
def dies(self, rows):
    if len(rows[0].prompt) > 300:
        raise ValueError("nobody thought of this")
    add(self, rows)
decoding.Decoding.add = dies
raise SystemExit(server.main(sys.argv[1:]))
"""


def test_a_computing_thread_that_dies_takes_the_process_with_it(base: Path) -> None:
    """Its doors stayed open, and everybody waited for the gateway's five minutes."""
    with tempfile.TemporaryDirectory() as place:
        running = Engine(base, Path(place), "--dtype", "fp32", "--slots", "1", words=["-c", DYING])
        other, reply = running.open("POST", "/v1/chat/completions", LONG | {"stream": True})
        reply.read(100)
        with pytest.raises((http.client.HTTPException, OSError)):
            running.ask("POST", "/v1/completions", {"model": "base", "prompt": [5] * 301})
        assert running.process.wait(timeout=PATIENCE_S) == 70
        with pytest.raises((http.client.HTTPException, OSError)):
            reply.read()
        assert running.ask("GET", "/ready") == (0, None)
        other.close()
        assert running.process.stderr is not None and b"nobody thought of this" in running.process.stderr.read()


def test_calls_are_read_out_of_an_answer_and_broken_ones_stay_text() -> None:
    said, calls = called('I look.\n<tool_call>\n{"name": "find", "arguments": {"q": "差旅"}}\n</tool_call>')
    assert said == "I look." and calls[0]["function"] == {"name": "find", "arguments": '{"q": "差旅"}'}
    for broken in ("<tool_call>{}</tool_call>", "<tool_call>[1]", "<tool_call>find()</tool_call>", "no call"):
        assert called(broken) == (broken, [])


def test_it_dies_with_its_parent(base: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        running = Engine(base, Path(place))
        assert running.process.stdin is not None
        running.process.stdin.close()
        assert running.process.wait(timeout=PATIENCE_S) == 0
        assert not os.path.exists(running.socket)


def test_without_a_secret_it_does_not_start(base: Path) -> None:
    words = [sys.executable, "-m", "danlu.engines.server", str(base), "--port", "0"]
    ended = subprocess.run(words, input=b"\n", capture_output=True, timeout=PATIENCE_S)
    assert ended.returncode == 2 and b"no secret was given" in ended.stderr
