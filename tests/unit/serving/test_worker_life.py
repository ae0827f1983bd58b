"""A worker as a process of its own: lets nobody in before it has a board, and loses nothing when it ends."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from danlu.serving.exposition import render
from danlu.serving.meters import Totals
from waiting_kit import until_true
from worker_kit import LENS, PATIENCE_S, Engine, Stage


@pytest.fixture
def stage(tmp_path) -> Iterator:
    made = []

    def make(**engine):
        made.append(Stage(tmp_path, Engine(**engine)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_nobody_is_let_in_before_there_is_something_to_ask(stage):
    one = stage()
    one.start()
    one.wait(board=0)  # it is up, and has nothing to go by
    probe = socket.create_connection(("127.0.0.1", one.port))  # the kernel takes it; nobody answers yet
    probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    probe.settimeout(0.5)
    with pytest.raises(TimeoutError):
        probe.recv(100)
    one.show()
    probe.settimeout(PATIENCE_S)
    assert probe.recv(100).startswith(b"HTTP/1.1 200")
    probe.close()


def test_it_answers_counts_and_tells(stage):
    one = stage()
    one.show()
    one.start()
    one.wait()
    _, reply = one.ask()
    answer = json.loads(reply.read())
    assert reply.status == 200 and answer["usage"]["completion_tokens"] == 8, answer
    _, reply = one.ask(stream=True)
    assert reply.read().endswith(b"data: [DONE]\n\n")
    _, reply = one.ask(model="none")
    assert reply.status == 404
    # feedback by the same key, at once; by nobody else
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE_S)
    asked = json.dumps({"id": answer["id"], "rating": "up", "comment": "gut"})
    connection.request(
        "POST", "/v1/feedback", asked, {"Authorization": f"Bearer {one.key}", "Content-Type": "application/json"}
    )
    told = json.loads(connection.getresponse().read())
    assert told["stored"] == ["rating"] and told["trains"] is False
    assert one.get("/v1/feedback")[0] == 405
    # the page and the challenge need no key, and show none
    status, headers, page = one.get("/", Host="localhost")
    assert status == 200 and "default-src 'none'" in headers["content-security-policy"] and b"law" not in page
    assert one.get("/", Host="rebound.example")[0] == 400
    assert one.get("/identity?key=../x&nonce=1")[0] == 404
    # counters come up the line, and the page adds them up

    def page():
        totals = Totals()
        totals.take({name: post.counters for name, post in one.line.posts.items()})
        return render(totals.sum(), {}).decode()

    until_true(lambda: f'danlu_requests_total{{model="law",lens="{LENS}",status="200"}} 2' in page(), page)
    until_true(lambda: 'danlu_refusals_total{code="model_not_found"} 1' in page(), page)

    def done():
        lines = map(json.loads, (one.home / "logs" / "requests-w0.jsonl").read_text().splitlines())
        return [line for line in lines if line.get("outcome") == "done"]

    until_true(lambda: len(done()) == 2, done)
    told = (one.home / "logs" / "requests-w0.jsonl").read_text()
    assert done()[0]["id"] == answer["id"] and "gut" not in told and one.key not in told


def test_a_stream_under_way_ends_before_the_worker_does(stage):
    one = stage(words=20, every_s=0.1)
    one.show()
    process = one.start()
    one.wait()
    _, reply = one.ask(stream=True)
    reply.read(10)
    process.send_signal(signal.SIGTERM)
    assert reply.read().endswith(b"data: [DONE]\n\n")
    assert one.ended(process) == 0


def test_what_takes_too_long_is_cut_and_settled(stage):
    one = stage(words=10_000, every_s=0.1)
    one.show()
    process = one.start(caps={"drain_s": 1.0})
    one.wait()
    _, reply = one.ask(stream=True)
    reply.read(10)
    process.send_signal(signal.SIGTERM)
    assert one.ended(process) == 0  # the answer would go on for a quarter of an hour
    whats = [line["what"] for line in one.journal()]
    assert whats.count("opened") == whats.count("closed") == 1 and whats[-1] == "ended"


def test_it_ends_with_its_parent(stage):
    one = stage()
    one.show()
    process = one.start()
    one.wait()
    process.stdin.close()
    assert one.ended(process) == 0


def test_a_reload_loses_no_request(stage):
    """New workers take from the same socket while the old ones finish: clients on kept connections notice nothing."""
    one = stage(words=2, every_s=0.01)
    one.show()
    one.start("w0")
    one.wait("w0")
    stop, failed, done = threading.Event(), [], []

    def ask_on():
        connection = None
        while not stop.is_set():
            connection = connection or http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE_S)
            try:
                body = json.dumps({"model": "law", "messages": [{"role": "user", "content": "?"}]})
                connection.request(
                    "POST",
                    "/v1/chat/completions",
                    body,
                    {"Authorization": f"Bearer {one.key}", "Content-Type": "application/json"},
                )
                reply = connection.getresponse()
                content = reply.read()
                (done if reply.status == 200 else failed).append((reply.status, content[:200]))
                if reply.getheader("connection") == "close":
                    connection.close()
                    connection = None
            except OSError as fault:
                failed.append(repr(fault))
                connection = None

    threads = [threading.Thread(target=ask_on) for _ in range(4)]
    for thread in threads:
        thread.start()

    def more(num):
        enough = len(done) + num
        until_true(lambda: len(done) >= enough or failed, lambda: len(done))

    try:
        for number in (1, 2):
            more(20)
            one.start(f"w{number}")
            one.wait(f"w{number}")
            more(20)
            one.processes[-2].send_signal(signal.SIGTERM)
            assert one.ended(one.processes[-2]) == 0
        more(20)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed, failed[:3]


def test_slow_and_endless_heads_are_cut(stage):
    one = stage()
    one.show()
    one.start()
    one.wait()
    with socket.create_connection(("127.0.0.1", one.port)) as probe:
        probe.settimeout(PATIENCE_S)
        with contextlib.suppress(OSError):
            for _ in range(100):
                probe.sendall(b"GET / HTTP/1.1\r\n" if _ == 0 else b"x-%d: %s\r\n" % (_, b"a" * 2000))
        with contextlib.suppress(ConnectionError):
            assert probe.recv(100) == b""
    assert one.get("/healthz")[0] == 200


def test_more_than_may_wait_is_told_to_come_back(stage):
    one = stage(words=10_000, every_s=0.1)
    one.show()
    one.start(caps={"waiting": 1})
    one.wait()
    held, reply = one.ask(stream=True)
    reply.read(10)
    _, second = one.ask()
    said = json.loads(second.read())
    assert second.status == 503 and said["error"]["code"] == "overloaded" and second.getheader("retry-after") == "1"
    assert one.get("/healthz")[0] == 200
    held.close()


def test_a_question_to_a_url_leaves_the_house_masked(stage):
    one = stage()
    one.show()
    one.start(redact={"questions": "urls"})
    one.wait()
    _, reply = one.ask(messages=[{"role": "user", "content": "我的手机号是13800138000"}])
    assert reply.status == 200 and reply.getheader("x-danlu-redacted") == "mobile=1"
    assert one.engine.bodies[-1]["messages"][0]["content"] == "我的手机号是<手机号>"
    until_true(lambda: any(told["what"] == "redacted" and told["question"] == "mobile=1" for told in one.journal()))


@pytest.mark.parametrize("is_stream", [False, True])
def test_who_closes_its_half_of_the_line_has_hung_up(stage, is_stream):
    """The end of a client's sending is all that is seen of one that is gone: nobody waits for it, and it is settled."""
    one = stage(words=10_000, every_s=0.1)
    one.show()
    one.start()
    one.wait()
    body = json.dumps({"model": "law", "messages": [{"role": "user", "content": "?"}], "stream": is_stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {one.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", one.port)) as line:
        line.settimeout(PATIENCE_S)
        line.sendall(head.encode() + body)
        until_true(lambda: any(told["what"] == "opened" for told in one.journal()))
        if is_stream:
            assert line.recv(100).startswith(b"HTTP/1.1 200")
        line.shutdown(socket.SHUT_WR)
        while line.recv(65536):
            pass  # closed, in good time
    until_true(lambda: any(told["what"] == "closed" for told in one.journal()))
    (closed,) = [told for told in one.journal() if told["what"] == "closed"]
    assert (closed["outcome"], closed["error"]) == ("aborted", "client_gone")
    assert one.get("/healthz")[0] == 200


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_one_client_does_not_use_up_the_door():
    """1,024 connections that say nothing were all that a worker could hold, and everybody else was turned away."""
    program = (
        "import resource as r; from danlu.serving.worker import allow_connections\n"
        "hard = r.getrlimit(r.RLIMIT_NOFILE)[1]\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, hard)); allow_connections()\n"
        "assert r.getrlimit(r.RLIMIT_NOFILE) == (65536 if hard == r.RLIM_INFINITY else min(hard, 65536), hard)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
