"""From an engine to the client: retries before the first byte, faults after it, clients that hang up, and the books."""

import asyncio
import contextlib
import http.client
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from danlu.serving.board import State
from danlu.serving.caps import Caps
from danlu.serving.keys import Key
from danlu.serving.limits import Refusal
from gateway_kit import (
    LENS,
    NUM_PROMPT,
    SECRET,
    WORDS,
    Asked,
    Play,
    Served,
    Upstream,
    board_of,
    chat,
    chunk,
    drops,
    events,
    good,
    hangs,
    sends,
    served,
    stalls,
    status,
    upstreams,
    usage,
)
from waiting_kit import PATIENCE_S, until_true

QUICK = Caps(first_s=0.4, between_s=0.4, whole_s=1.2, answer_tokens=64)


@contextmanager
def between(
    folder: Path, *plays: Play | None, caps: Caps = QUICK, **more: object
) -> Iterator[tuple[Served, list[Upstream]]]:
    with (
        upstreams(*plays) as found,
        served(folder, board_of(*(one.address for one in found)), caps=caps, **more) as gate,
    ):  # type: ignore[arg-type]
        yield gate, found


def books(gate: Served) -> None:
    """Nothing is leased, nothing reserved, every opening is closed."""
    gate.closing()
    assert not gate.gateway.router.on_replica and not gate.gateway.router.on_lens


def hang_up(gate: Served, body: dict[str, object], *, after_bytes: int = 0, after_s: float = 0.1) -> None:
    link = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=PATIENCE_S)
    headers = {"authorization": f"Bearer {gate.credential}", "content-type": "application/json"}
    link.request("POST", "/v1/chat/completions", orjson.dumps(body), headers)
    if after_bytes:
        link.getresponse().read(after_bytes)
    else:
        time.sleep(after_s)
    link.close()


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_is_ours_in_name_and_counted_by_the_engine(tmp_path: Path, is_stream: bool) -> None:
    with between(tmp_path, None) as (gate, (engine,)):
        found = gate.ask(chat(stream=is_stream, user="u"))
        assert found.status == 200
        said = found.events[0] if is_stream else found.json
        assert said["model"] == LENS == found.headers["x-danlu-lens"] and said["id"] == found.headers["x-request-id"]
        assert found.headers["x-danlu-ignored"] == "user"
        line = gate.closing()
        assert (line["outcome"], line["prompt_tokens"], line["answer_tokens"], line["is_counted"]) == (
            "done",
            NUM_PROMPT,
            len(WORDS),
            True,
        )
        assert (
            engine.asked[0].headers["authorization"] == f"Bearer {SECRET}"
            and engine.asked[0].body["model"] == "engine-x"
        )
        assert gate.credential not in str(engine.asked[0])
        books(gate)


def test_unix_sockets_and_embeddings(tmp_path: Path) -> None:
    with upstreams(folder=tmp_path) as (engine,), served(tmp_path, board_of(engine.address)) as gate:
        assert gate.ask(chat()).status == 200
        found = gate.ask({"model": "law", "input": ["x", "y"]}, path="/v1/embeddings")
        assert found.json["data"][0]["embedding"] == [0.5, 0.25] and found.json["model"] == LENS
        assert gate.closing()["prompt_tokens"] == 3
        assert engine.asked[-1].path == "/v1/embeddings"


@pytest.mark.parametrize(
    "fault", [drops, status(502), status(503), status(404), sends(kind="text/html"), sends(b"data: x\n\n"), sends()]
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_another_replica_answers_before_the_first_byte(tmp_path: Path, fault: Play, is_stream: bool) -> None:
    with between(tmp_path, fault, fault) as (gate, engines):
        engines[1].play = None
        engines[0].play = fault
        found = [gate.ask(chat(stream=is_stream)) for _ in range(2)]  # one of them meets the bad one first
        assert [one.status for one in found] == [200, 200]
        assert gate.closing()["answer_tokens"] == len(WORDS)
        books(gate)


def test_a_dead_replica_is_passed_over(tmp_path: Path) -> None:
    with upstreams() as (engine,), served(tmp_path, board_of("http://127.0.0.1:9", engine.address), caps=QUICK) as gate:
        assert [gate.ask(chat()).status for _ in range(6)] == [200] * 6
        assert gate.gateway.router.circuits["r0"].num_running <= 3  # then its circuit is open


def test_what_breaks_one_engine_is_not_given_to_the_next(tmp_path: Path) -> None:
    """A request that makes an engine fail by itself (500) would take down the whole pool."""
    with between(tmp_path, status(500), status(500)) as (gate, engines):
        found = gate.ask(chat())
        assert found.status == 502 and found.code == "engine_failed"
        assert sum(len(one.asked) for one in engines) == 1
        books(gate)


def test_at_most_two_replicas_are_asked(tmp_path: Path) -> None:
    with between(tmp_path, drops, drops, drops) as (gate, engines):
        assert gate.ask(chat()).status == 502
        assert sum(len(one.asked) for one in engines) == 2
        line = gate.closing()
        assert line["outcome"] == "failed" and line["prompt_tokens"] == line["answer_tokens"] == 0


def test_an_engine_that_closed_an_old_connection_is_asked_again(tmp_path: Path) -> None:
    """With one replica: it dropped the first, and answers the second."""
    with between(tmp_path, None) as (gate, (engine,)):

        async def once(upstream: Upstream, asked: object, writer: object) -> None:
            upstream.play = None
            raise ConnectionResetError

        engine.play = once
        assert gate.ask(chat()).status == 200 and len(engine.asked) == 2


def test_all_busy_is_503_with_a_time(tmp_path: Path) -> None:
    with between(tmp_path, status(429), status(429)) as (gate, _):
        found = gate.ask(chat())
        assert found.status == 503 and found.code == "engine_busy" and found.headers["retry-after"] == "1"
        assert gate.gateway.router.circuits["r0"].num_running == 0  # busy is not broken
        books(gate)


@pytest.mark.parametrize(
    ("state", "code", "wait", "retries"),
    [("down", "no_engine", "2", None), ("failed", "model_not_loaded", "60", "false")],
)
def test_no_replica_is_503_that_says_whether_it_comes_back_and_costs_nothing(
    tmp_path: Path, state: State, code: str, wait: str, retries: str | None
) -> None:
    board = board_of("http://127.0.0.1:1")
    board = replace(board, replicas=tuple(replace(replica, state=state) for replica in board.replicas))
    with served(tmp_path, board) as gate:
        found = gate.ask(chat())
        assert found.status == 503 and found.code == code and found.headers["retry-after"] == wait
        assert found.headers.get("x-should-retry") == retries, "OpenAI's clients try again by themselves else"
        assert "law" in orjson.loads(found.body)["error"]["message"]
        assert not [line for line in gate.lines() if line["what"] == "opened"]


def test_an_engine_declines_in_its_own_words_without_paths_and_secrets(tmp_path: Path) -> None:
    said = f"model /srv/models/x/y at {SECRET} holds 4096 tokens, your prompt is longer\n\x1b[31m"
    body = orjson.dumps({"object": "error", "message": said, "code": 400})
    with between(tmp_path, status(400, body), status(400, body)) as (gate, engines):
        found = gate.ask(chat())
        assert found.status == 400 and found.code == "engine_declined" and "4096 tokens" in found.body.decode()
        assert (
            "/srv" not in found.body.decode()
            and SECRET not in found.body.decode()
            and "\x1b" not in found.json["error"]["message"]
        )
        assert sum(len(one.asked) for one in engines) == 1
        assert gate.closing()["outcome"] == "refused"


def test_an_engines_401_is_not_the_clients(tmp_path: Path) -> None:
    with between(tmp_path, status(401)) as (gate, _):
        assert gate.ask(chat()).status == 502


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    with between(tmp_path, status(307)) as (gate, engines):
        assert gate.ask(chat()).status == 502 and len(engines[0].asked) == 1


def test_a_stream_that_is_cut_ends_in_an_error_the_client_raises(tmp_path: Path) -> None:
    with between(tmp_path, sends(*events()[:4]), None) as (gate, engines):
        engines[1].play = engines[0].play
        found = gate.ask(chat(stream=True))
        assert found.status == 200 and found.events[-1]["error"]["code"] == "engine_failed"
        assert b"[DONE]" not in found.body
        line = gate.closing()
        assert (line["outcome"], line["answer_tokens"], line["is_counted"]) == ("failed", 3, False)
        assert sum(len(one.asked) for one in engines) == 1  # after the first byte there is no second try
        books(gate)


def test_a_stream_that_stalls_ends_in_an_error(tmp_path: Path) -> None:
    with between(tmp_path, stalls(*events()[:3])) as (gate, (engine,)):
        began = time.monotonic()
        found = gate.ask(chat(stream=True))
        assert found.events[-1]["error"]["code"] == "engine_timeout" and time.monotonic() - began > 0.3
        until_true(lambda: engine.num_hung_up == 1)
        assert gate.closing()["answer_tokens"] == 2


def test_an_engine_that_says_nothing_is_left(tmp_path: Path) -> None:
    with between(tmp_path, hangs) as (gate, (engine,)):
        assert gate.ask(chat(stream=True)).code == "engine_timeout"
        assert gate.ask(chat()).status == 504  # the whole answer may take longer than a first byte
        until_true(lambda: engine.num_hung_up == 2)
        books(gate)


def test_an_endless_stream_has_an_end(tmp_path: Path) -> None:
    with between(tmp_path, sends(*events()[:3], hang=True)) as (gate, (engine,)):
        began = time.monotonic()
        assert gate.ask(chat(stream=True)).events[-1]["error"]["code"] == "engine_timeout"
        assert time.monotonic() - began > 1.0
        until_true(lambda: engine.num_hung_up == 1)


def test_who_hangs_up_stops_the_engine_and_pays_for_what_came(tmp_path: Path) -> None:
    with between(tmp_path, sends(*events()[:4], hang=True), caps=Caps()) as (gate, (engine,)):
        hang_up(gate, chat(stream=True), after_bytes=200)
        until_true(lambda: engine.num_hung_up == 1)
        line = gate.closing()
        assert (line["outcome"], line["answer_tokens"], line["is_counted"], line["error"]) == (
            "aborted",
            3,
            False,
            "client_gone",
        )
        books(gate)


def test_running_usage_makes_an_aborted_stream_exact(tmp_path: Path) -> None:
    pieces = [one[:-3] + b',"usage":' + orjson.dumps(usage(n)) + b"}\n\n" for n, one in enumerate(events()[:4])]
    with between(tmp_path, sends(*pieces, hang=True), caps=Caps()) as (gate, (engine,)):
        hang_up(gate, chat(stream=True), after_bytes=400)
        until_true(lambda: engine.num_hung_up == 1)
        line = gate.closing()
        assert (line["outcome"], line["prompt_tokens"], line["is_counted"]) == ("aborted", NUM_PROMPT, True)


@pytest.mark.parametrize("is_stream", [False, True])
def test_who_hangs_up_before_the_first_byte_stops_the_engine_too(tmp_path: Path, is_stream: bool) -> None:
    with between(tmp_path, hangs, caps=Caps(answer_tokens=64)) as (gate, (engine,)):
        hang_up(gate, chat(stream=is_stream))
        until_true(lambda: engine.num_hung_up == 1)
        line = gate.closing()
        assert line["outcome"] == "aborted" and line["status"] == 499
        assert line["answer_tokens"] == (0 if is_stream else 64)  # unknown without a stream: as reserved
        books(gate)


@pytest.mark.parametrize("is_stream", [False, True])
def test_who_closes_the_sending_half_has_hung_up(tmp_path: Path, is_stream: bool) -> None:
    """To a server it looks like a client that is gone until something is sent, and by then an engine has worked for
    nobody: who wants the answer keeps the connection open."""
    with between(tmp_path, sends(*events()[:2], hang=True) if is_stream else hangs, caps=Caps()) as (gate, (engine,)):
        body = orjson.dumps(chat(stream=is_stream))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gate.credential}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", gate.port), timeout=PATIENCE_S) as link:
            link.sendall(head.encode() + body)
            until_true(lambda: engine.asked)
            link.shutdown(socket.SHUT_WR)
            while link.recv(65536):
                pass  # to the end, which comes at once
        until_true(lambda: engine.num_hung_up == 1)
        line = gate.closing()
        assert (line["outcome"], line["error"]) == ("aborted", "client_gone")
        books(gate)


def test_a_client_that_takes_nothing_holds_no_engine(tmp_path: Path) -> None:
    """A stream is not read ahead without bound, and who stops reading is left after the time between two pieces."""
    big = b"data: " + orjson.dumps(chunk({"content": "x" * 60_000})) + b"\n\n"
    with between(tmp_path, sends(*[big] * 2000), caps=Caps(between_s=0.5)) as (gate, (engine,)):
        body = orjson.dumps(chat(stream=True))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gate.credential}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", gate.port)) as link:
            link.sendall(head.encode() + body)
            until_true(lambda: engine.num_hung_up == 1)
            line = gate.closing()
            assert (line["outcome"], line["error"]) == ("aborted", "client_stalled") and engine.num_sent < 500
        books(gate)


def test_a_worker_that_is_stopped_settles_what_was_answered(tmp_path: Path) -> None:
    with between(tmp_path, sends(*events()[:4], hang=True), caps=Caps()) as (gate, (engine,)):
        asking = threading.Thread(target=_try, args=(gate,))
        asking.start()
        until_true(lambda: engine.num_sent == 4)
        time.sleep(0.1)
        gate.cancel_all()
        asking.join(5)
        until_true(lambda: engine.num_hung_up == 1)
        line = gate.closing()
        assert (line["outcome"], line["answer_tokens"], line["error"]) == ("aborted", 3, "server_stopped")
        books(gate)


def _try(gate: Served) -> None:
    with contextlib.suppress(http.client.HTTPException, OSError):
        gate.ask(chat(stream=True))


def test_concurrency_is_free_again_when_the_last_byte_is_here(tmp_path: Path) -> None:
    with between(tmp_path, None) as (gate, _):
        key = gate.new_key(concurrency=1)
        for is_stream in (True, False) * 5:
            assert gate.ask(chat(stream=is_stream), key=key).status == 200


def test_a_key_may_not_ask_more_at_once_than_it_may(tmp_path: Path) -> None:
    with between(tmp_path, sends(*events(), delay_s=0.08), caps=Caps()) as (gate, _):
        key = gate.new_key(concurrency=1)
        asking = threading.Thread(target=gate.ask, args=(chat(stream=True),), kwargs={"key": key})
        asking.start()
        time.sleep(0.15)
        assert gate.ask(chat(), key=key).code == "rate_limit_exceeded"
        asking.join()


def test_a_full_disk_lets_nothing_be_answered(tmp_path: Path) -> None:
    with between(tmp_path, None) as (gate, (engine,)):
        opened = gate.gateway.journal.opened

        def full(opening: object) -> None:
            raise OSError(28, "No space left on device")

        gate.gateway.journal.opened = full  # type: ignore[method-assign]
        assert gate.ask(chat()).code == "journal_unavailable" and not engine.asked
        gate.gateway.journal.opened = opened  # type: ignore[method-assign]
        assert gate.ask(chat()).status == 200
        books(gate)


def test_bodies_are_kept_for_keys_that_want_it_alone(tmp_path: Path) -> None:
    kept: list[tuple[object, ...]] = []

    class Shelf:
        def keep(self, id: str, key: object, lens: str, question: bytes, answer: bytes, is_stream: bool) -> None:
            kept.append((id, lens, question, answer, is_stream))

    with between(tmp_path, None, keeper=Shelf()) as (gate, _):
        gate.ask(chat())
        key = gate.new_key(keeps_bodies=True)
        found = [gate.ask(chat(stream=is_stream), key=key) for is_stream in (False, True)]
        assert len(kept) == 2 and kept[0][1] == LENS and kept[0][3] == found[0].body and kept[1][3] == found[1].body
        assert orjson.loads(kept[0][2]) == chat(stream=False)  # type: ignore[arg-type]


def test_a_model_may_have_a_chinese_name(tmp_path: Path) -> None:
    with between(tmp_path, None) as (gate, _):
        assert gate.ask(chat(model="法律")).json["model"] == LENS
        assert gate.closing()["outcome"] == "done" and gate.lines()[-2]["model"] == "法律"


def test_a_huge_answer_is_cut_off(tmp_path: Path) -> None:
    big = b'{"choices":[],"x":"' + b"a" * 50_000 + b'"}'
    with between(tmp_path, status(200, big), caps=Caps(most_reply_bytes=10_000)) as (gate, _):
        assert gate.ask(chat()).code == "engine_failed"


def test_a_storm_leaves_nothing_behind(tmp_path: Path) -> None:
    """Hundreds at once, a third hanging up anywhere, two engines of three that drop some: every opening is closed once,
    every reservation given back."""
    import aiohttp

    async def moody(upstream: Upstream, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if len(upstream.asked) % 3 == 0:
            raise ConnectionResetError
        await (sends(*events(), delay_s=0.002) if asked.body.get("stream") and len(upstream.asked) % 3 == 1 else good)(
            upstream, asked, writer
        )

    async def storm(gate: Served, credential: str) -> list[int]:
        drawn = random.Random(3)
        headers = {"authorization": f"Bearer {credential}"}

        async def ask(session: aiohttp.ClientSession, patience_s: float, is_stream: bool) -> int:
            try:
                async with (
                    asyncio.timeout(patience_s),
                    session.post(f"{gate.url}/chat/completions", json=chat(stream=is_stream)) as reply,
                ):
                    await reply.read()
                    return reply.status
            except (TimeoutError, aiohttp.ClientError):
                return 0

        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
            asked = [ask(session, drawn.choice([0.005, 0.03, 10, 10]), drawn.random() < 0.5) for _ in range(300)]
            return list(await asyncio.gather(*asked))

    with between(tmp_path, moody, moody, None, caps=Caps()) as (gate, _):
        key = gate.new_key(concurrency=40, tokens_per_minute=10**9)
        found = asyncio.run(storm(gate, key))
        assert set(found) <= {0, 200, 429, 502, 503} and 200 in found and 0 in found
        until_true(lambda: not gate.gateway.router.on_replica)
        opened = {line["n"] for line in gate.lines() if line["what"] == "opened"}
        closed = [line["of"] for line in gate.lines() if line["what"] == "closed"]
        assert len(closed) == len(set(closed)) and opened == set(closed)
        limiter = gate.gateway.limiter
        admitted = [limiter.reserve_now(_key(gate, key), 1, time.time()) for _ in range(40)]  # type: ignore[attr-defined]
        assert not [one for one in admitted if isinstance(one, Refusal)], "somebody still holds a place"


def _key(gate: Served, credential: str) -> Key:
    key = gate.keys.find(credential, time.time())
    assert key is not None
    return key
