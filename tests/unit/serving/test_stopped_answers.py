"""Answers that end before their time, on an engine that can be told to stop: it is asked what it had computed, that is
settled, and only then is the seat of the one who hung up free again. Whoever else asks notices nothing of it."""

import asyncio
import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from danlu.serving import relay
from danlu.serving.caps import Caps
from danlu.serving.keys import Key
from gateway_kit import (
    NUM_PROMPT,
    SECRET,
    Asked,
    Play,
    Served,
    Upstream,
    board_of,
    chat,
    events,
    hangs,
    sends,
    served,
    status,
    upstreams,
    usage,
)
from waiting_kit import PATIENCE_S, a_moment, until_true

COMPUTED = 9
"""What the engine says of an answer of which three tokens came through."""


def stops(play: Play, *, after_s: float = 0.0, num: int = COMPUTED, fault: Play | None = None) -> Play:
    """An engine that answers as `play` does, and ends answers by their ids."""

    async def both(upstream: Upstream, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.path != "/cancel":
            await play(upstream, asked, writer)
        elif fault is not None:
            await fault(upstream, asked, writer)
        else:
            await asyncio.sleep(after_s)
            body = orjson.dumps({"usage": usage(num)})
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)

    return both


@contextmanager
def between(
    folder: Path, play: Play, *, caps: Caps | None = None, limits: Key | None = None
) -> Iterator[tuple[Served, Upstream]]:
    """The engine is one of ours by its driver, and somebody's raw server by its make."""
    with (
        upstreams(play) as (engine,),
        served(folder, board_of(engine.address, driver="native"), caps=caps or Caps(), limits=limits) as gate,
    ):
        yield gate, engine


def hang_up(gate: Served, engine: Upstream, **more: Any) -> None:
    """Once the engine has the request, and a stream's events are there."""
    link = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=PATIENCE_S)
    headers = {"authorization": f"Bearer {gate.credential}", "content-type": "application/json"}
    link.request("POST", "/v1/chat/completions", orjson.dumps(chat(**more)), headers)
    if more.get("stream") and engine.play is not None:
        link.getresponse().read(200)
        until_true(lambda: engine.num_sent >= 4)
        a_moment()  # through the gateway
    else:
        until_true(lambda: engine.asked)
    link.close()


def cancelled(engine: Upstream) -> list[Asked]:
    return [asked for asked in engine.asked if asked.path == "/cancel"]


def told(gate: Served) -> tuple[str, int, int, bool]:
    line = gate.closing()
    return line["outcome"], line["prompt_tokens"], line["answer_tokens"], line["is_counted"]


def num_unstopped(gate: Served) -> int:
    return sum(gate.gateway.meters.counters()["counters"]["unstopped"].values())  # type: ignore[attr-defined]


THREE = sends(*events()[:4], hang=True)


def test_a_stream_left_in_the_middle_is_settled_at_what_the_engine_computed(tmp_path: Path) -> None:
    """A gateway saw three tokens of it; the engine had made more by the time it noticed."""
    with between(tmp_path, stops(THREE)) as (gate, engine):
        hang_up(gate, engine, stream=True)
        assert told(gate) == ("aborted", NUM_PROMPT, COMPUTED, True)
        (asked,) = cancelled(engine)
        opened = next(line for line in gate.lines() if line["what"] == "opened")
        assert asked.body == {"id": opened["id"]} and asked.headers["authorization"] == f"Bearer {SECRET}"
        assert num_unstopped(gate) == 0


def test_a_whole_answer_nobody_waited_for_is_no_longer_charged_as_reserved(tmp_path: Path) -> None:
    with between(tmp_path, stops(hangs), caps=Caps(answer_tokens=64)) as (gate, engine):
        hang_up(gate, engine, stream=False)
        assert told(gate) == ("aborted", NUM_PROMPT, COMPUTED, True)


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_that_a_clock_ended_is_settled_at_what_the_engine_computed(tmp_path: Path, is_stream: bool) -> None:
    with between(tmp_path, stops(hangs), caps=Caps(first_s=0.3, whole_s=0.3)) as (gate, _):
        assert gate.ask(chat(stream=is_stream)).code == "engine_timeout"
        assert told(gate) == ("failed", NUM_PROMPT, COMPUTED, True)


def test_the_seat_is_free_once_the_engine_is_and_not_before(tmp_path: Path) -> None:
    """Two at once were three in the engine, for as long as it took it to see that somebody had gone."""
    with between(tmp_path, stops(THREE, after_s=0.5), limits=Key("", "", (), concurrency=1)) as (gate, engine):
        hang_up(gate, engine, stream=True)
        until_true(lambda: cancelled(engine))
        assert gate.ask(chat(stream=True)).status == 429
        other = gate.new_key()
        engine.play = None  # whoever else asks waits for nothing
        began = time.monotonic()
        assert gate.ask(chat(), key=other).status == 200 and time.monotonic() - began < 0.4
        assert not [line for line in gate.lines() if line["what"] == "closed" and line["outcome"] == "aborted"]
        gate.closing()
        assert gate.ask(chat()).status == 200


@pytest.mark.parametrize("fault", [hangs, status(404), status(200, b"{}"), sends()])
def test_an_engine_that_does_not_say_is_believed_as_far_as_it_was_seen(
    tmp_path: Path, fault: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "GONE_STOP_S", 0.3)
    with between(tmp_path, stops(THREE, fault=fault)) as (gate, engine):
        hang_up(gate, engine, stream=True)
        outcome, _, num, is_counted = told(gate)
        assert (outcome, num, is_counted) == ("aborted", 3, False)
        until_true(lambda: num_unstopped(gate))


def test_an_engine_whose_step_is_long_is_heard_where_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "STOP_S", 0.1)
    with between(tmp_path, stops(THREE, after_s=0.5)) as (gate, engine):
        hang_up(gate, engine, stream=True)
        assert told(gate) == ("aborted", NUM_PROMPT, COMPUTED, True) and not num_unstopped(gate)


def test_a_connection_that_had_just_closed_is_not_an_engines_silence(tmp_path: Path) -> None:
    cuts = iter([True])

    async def once(upstream: Upstream, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.path == "/cancel" and next(cuts, False):
            raise ConnectionResetError
        await stops(THREE)(upstream, asked, writer)

    with between(tmp_path, once) as (gate, engine):
        hang_up(gate, engine, stream=True)
        assert told(gate) == ("aborted", NUM_PROMPT, COMPUTED, True) and len(cancelled(engine)) == 2


def test_a_new_process_that_knows_nothing_of_the_answer_is_not_believed(tmp_path: Path) -> None:
    pieces = [one[:-3] + b',"usage":' + orjson.dumps(usage(n)) + b"}\n\n" for n, one in enumerate(events()[:4])]
    with between(tmp_path, stops(sends(*pieces, hang=True), num=0)) as (gate, engine):
        hang_up(gate, engine, stream=True)
        assert told(gate) == ("aborted", NUM_PROMPT, 3, False)


def test_a_worker_that_is_stopped_asks_too(tmp_path: Path) -> None:
    with between(tmp_path, stops(THREE)) as (gate, engine):
        asking = threading.Thread(target=_try, args=(gate,))
        asking.start()
        until_true(lambda: engine.num_sent >= 4)
        gate.cancel_all()
        asking.join(PATIENCE_S)
        assert told(gate) == ("aborted", NUM_PROMPT, COMPUTED, True)


def test_engines_that_cannot_are_not_asked(tmp_path: Path) -> None:
    with upstreams(THREE) as (engine,), served(tmp_path, board_of(engine.address, driver="vllm")) as gate:
        hang_up(gate, engine, stream=True)
        assert told(gate)[0] == "aborted" and not cancelled(engine) and num_unstopped(gate) == 0


def _try(gate: Served) -> None:
    try:
        gate.ask(chat(stream=True))
    except (http.client.HTTPException, OSError):
        pass
