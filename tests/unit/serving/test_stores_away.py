"""Redis and Postgres go away in the middle of load and come back: workers go on as the docs say, nothing is lost, and a
log of it is two lines."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from danlu.core.errors import RunError
from danlu.openai.refused import RefusedError
from danlu.pipeline.serve_look import await_store
from danlu.recipe.serving import ServingSection
from danlu.serving.absence import Absence
from danlu.serving.chains import flaws_of, verify
from danlu.serving.journal import FOLDER
from danlu.serving.keys import Key, KeyBook, LiveKeys, Pepper
from danlu.serving.store import Store, open_store
from danlu.serving.usage import STORE_S, Bookkeeper, report, spent_of, total
from servers import PostgresServer, RedisServer, running_postgres, running_redis
from waiting_kit import until_true
from worker_kit import Engine, Stage

NOW = 1_795_357_000.0
LONGEST_S = 10.0
"""For one request, outages included; two cores that are busy otherwise."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    pytest.importorskip("redis")
    with running_redis() as server:
        yield server


class Clients:
    """Some that ask all the time, half of them for streams. What became of each request is kept."""

    def __init__(self, stage: Stage, key: str, num: int = 4) -> None:
        self.stage, self.key = stage, key
        self.got: list[tuple[int, float, dict[str, str], str]] = []
        self.faults: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, args=(bool(n % 2),)) for n in range(num)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def ids(self) -> set[str]:
        return {id for status, _, _, id in self.got if status == 200}

    def wait_for(self, status: int) -> None:
        seen = len(self.got)
        until_true(lambda: any(one[0] == status for one in self.got[seen:]), lambda: f"{status}: {self.got[-3:]}")

    def _ask_on(self, is_stream: bool) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                status, headers, content = ask(self.stage.port, self.key, is_stream=is_stream)
            except (OSError, http.client.HTTPException) as fault:
                self.faults.append(repr(fault))
                continue
            if status == 200 and is_stream and not content.endswith(b"data: [DONE]\n\n"):
                self.faults.append(f"cut off: {content[-100:]!r}")
            self.got.append((status, time.monotonic() - began, headers, headers.get("x-request-id", "")))
            time.sleep(0.02)


def ask(port: int, key: str, *, is_stream: bool = False) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = json.dumps({"model": "law", "messages": [{"role": "user", "content": "?"}], "stream": is_stream})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, content


def private(path: Path, text: str) -> str:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return str(path)


def events(home: Path) -> list[str]:
    lines = [json.loads(line) for path in (home / "logs").glob("requests-*.jsonl") for line in path.open()]
    return [line["event"] for line in lines if "event" in line]


def in_books(store: Store) -> tuple[int, int, int]:
    row = total(report(store, by=("key",), since="2000-01-01", until="2100-01-01", prices={}))
    return row.requests, row.prompt_tokens + row.answer_tokens, row.open + row.lost


def test_redis_and_postgres_are_killed_under_load_and_come_back(
    tmp_path: Path, redis: RedisServer, postgres: PostgresServer
) -> None:
    stage = Stage(tmp_path, Engine(words=3, every_s=0.01), store_url=postgres.url)
    store = open_store(tmp_path, postgres.url)
    book = KeyBook(store, Pepper.open(tmp_path / "pepper"))
    _, quota = book.create("quota", now=time.time(), limits=Key("", "", (), tokens_per_month=10**9))
    told: list[object] = []
    books = Bookkeeper(tmp_path, store, every_s=0.1, failed=told.append, back=told.append)
    books.start()
    section = {
        "store": {"kind": "postgres", "url_file": private(tmp_path / "pg.url", postgres.url)},
        "limits": {"kind": "redis", "url_file": private(tmp_path / "redis.url", redis.url)}, "workers": 2,
    }  # fmt: skip
    stage.show()
    all_clients: list[Clients] = []
    try:
        for name in ("w0", "w1"):
            stage.start(name, **section)
        stage.wait("w0"), stage.wait("w1")
        rate_clients, quota_clients = Clients(stage, stage.key), Clients(stage, quota, num=2)
        all_clients += [rate_clients, quota_clients]
        rate_clients.wait_for(200), quota_clients.wait_for(200)

        redis.stop()  # kill -9, and all it knew is gone
        quota_clients.wait_for(503)  # nobody knows what is left of a quota
        rate_clients.wait_for(200)  # a rate has its share in each worker
        time.sleep(1.0)
        redis.start()
        quota_clients.wait_for(200)

        postgres.stop()
        for clients in all_clients:
            clients.wait_for(200)  # keys go on by what is known, journals wait
        time.sleep(1.0)
        redis.stop()
        redis.start()  # a Redis that has forgotten, and no books to ask: a quota stays shut
        quota_clients.wait_for(503)
        rate_clients.wait_for(200)
        postgres.start()
        quota_clients.wait_for(200)
        for clients in all_clients:
            clients.stop()
        assert not rate_clients.faults and not quota_clients.faults
        got = rate_clients.got + quota_clients.got
        assert {status for status, *_ in got} <= {200, 503}
        assert all("retry-after" in headers for status, _, headers, _ in got if status == 503)
        assert max(seconds for _, seconds, *_ in got) < LONGEST_S
        for process in stage.processes:
            process.stdin.close()
            assert process.wait(20) == 0
    finally:
        for clients in all_clients:
            clients.stop()
        books.stop()
        stage.close()
    # exact: each answer has one row, each row is an answer, of 8 tokens by the engine's own count
    answered = rate_clients.ids() | quota_clients.ids()
    num_requests, num_tokens, num_unsettled = in_books(store)
    assert (num_requests, num_tokens, num_unsettled) == (len(answered), 8 * len(answered), 0)
    assert len(answered) == stage.engine.num_asked > 50
    assert all(store.answer(id) is not None for id in answered)
    assert not flaws_of(verify(tmp_path / FOLDER))
    # told: a line when it goes, one when it is back, in each worker; Redis went twice
    seen = events(tmp_path)
    assert {name: seen.count(name) for name in set(seen) if "_away" in name or "_back" in name} == {
        "store_away": 2, "store_back": 2, "limits_away": 4, "limits_back": 4,
    }  # fmt: skip
    assert len(told) == 2 and isinstance(told[0], Exception) and isinstance(told[1], float)


def test_a_worker_that_dies_while_the_database_is_away_comes_back_without_it(tmp_path: Path) -> None:
    """It started again and again until the database was back, and nobody was answered."""
    with running_postgres() as postgres:
        _dies_and_comes_back(tmp_path, postgres)


def _dies_and_comes_back(tmp_path: Path, postgres: PostgresServer) -> None:
    stage = Stage(tmp_path, Engine(words=3), store_url=postgres.url)
    store = open_store(tmp_path, postgres.url)
    book = KeyBook(store, Pepper.open(tmp_path / "pepper"))
    _, revoked = book.create("gone", now=time.time())
    _, quota = book.create("quota", now=time.time(), limits=Key("", "", (), tokens_per_month=10**9))
    section = {"store": {"kind": "postgres", "url_file": private(tmp_path / "pg.url", postgres.url)}}
    stage.show()
    try:
        first = stage.start("w0", **section)
        stage.wait("w0")
        assert [ask(stage.port, key)[0] for key in (stage.key, revoked, quota)] == [200, 200, 200]
        book.revoke("gone", now=time.time())
        until_true(lambda: ask(stage.port, revoked)[0] == 401)
        postgres.stop()
        first.kill()
        first.wait()
        second = stage.start("w1", **section)
        stage.wait("w1")
        assert [ask(stage.port, key)[0] for key in (stage.key, revoked, quota)] == [200, 401, 200]
        assert ask(stage.port, stage.key, is_stream=True)[2].endswith(b"data: [DONE]\n\n")
        postgres.start()
        until_true(lambda: "store_back" in events(tmp_path))
        book = KeyBook(open_store(tmp_path, postgres.url), Pepper.open(tmp_path / "pepper"))
        _, fresh = book.create("fresh", now=time.time())
        until_true(lambda: ask(stage.port, fresh)[0] == 200, lambda: "what the store says is not heard again")
        second.stdin.close()
        assert second.wait(20) == 0
    finally:
        stage.close()


def test_a_server_waits_for_a_database_that_starts_with_it(tmp_path: Path) -> None:
    """A machine that boots starts both at once, and the server ended before its database took connections."""
    with running_postgres() as postgres:
        url_file = private(tmp_path / "pg.url", postgres.url)
        section = ServingSection.model_validate({"store": {"kind": "postgres", "url_file": url_file}})
        postgres.stop()
        told: list[str] = []
        with pytest.raises(RunError) as caught:
            await_store(section, tmp_path, tell=told.append, within_s=1.0)
        assert caught.value.key == "serve.no_store" and "postgres" in str(caught.value)
        assert len(told) == 1 and "postgres" in told[0]
        waiting = threading.Thread(target=await_store, args=(section, tmp_path), kwargs={"tell": told.append})
        waiting.start()
        until_true(lambda: len(told) == 2)
        postgres.start()
        waiting.join()
        await_store(section, tmp_path, tell=told.append)
        assert len(told) == 2, "nothing is said where nothing is waited for"


def test_a_database_that_says_nothing_is_cut_off(tmp_path: Path, postgres: PostgresServer) -> None:
    """Frozen, or behind a network that swallows everything: a question to it would wait for ever."""
    store = open_store(tmp_path, postgres.url)
    assert store.place_of("w9").n == -1
    postgres.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(store.errors):
            store.place_of("w9")
        assert 4 < time.monotonic() - began
        with pytest.raises(store.errors):
            store.place_of("w9")  # a connection is not made either
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(store.errors):
                store.place_of("w9")
        assert time.monotonic() - began < 20, "all who wait are told at once: one after the other they would take 100 s"
    finally:
        postgres.thaw()
    time.sleep(1.1)
    assert store.place_of("w9").n == -1


def test_a_request_waits_for_books_no_longer_than_it_says(tmp_path: Path, postgres: PostgresServer) -> None:
    import asyncio

    spent = spent_of(open_store(tmp_path, postgres.url))
    assert asyncio.run(spent("nobody", NOW)) == 0
    postgres.freeze()
    try:

        async def ask() -> float:
            began = time.monotonic()
            assert await spent("nobody", NOW) is None
            return time.monotonic() - began

        with asyncio.Runner() as runner:
            assert runner.run(ask()) < STORE_S + 1
            postgres.thaw()
    finally:
        postgres.thaw()


def test_keys_are_believed_for_a_while_and_no_longer(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    pepper = Pepper.open(tmp_path / "pepper")
    _, credential = KeyBook(store, pepper).create("a", now=NOW)
    keys = LiveKeys(store, pepper, most_stale_s=1.0)
    faults: list[Exception] = []
    keys.watch(faults.append)
    store.close()
    assert keys.find(credential, NOW) is not None
    until = time.monotonic() + 10
    while keys.stale_s <= 1.0 and time.monotonic() < until:
        assert keys.find(credential, NOW) is not None
        time.sleep(0.05)
    with pytest.raises(RefusedError) as refused:
        keys.find(credential, NOW)
    assert refused.value.status == 503 and dict(refused.value.headers)[b"retry-after"]
    assert refused.value.to_json()["error"]["code"] == "store_unavailable"
    keys.stop()
    assert len(faults) == 1


def test_a_worker_that_starts_without_its_database_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError) as said:
        open_store(tmp_path, "postgresql://danlu@127.0.0.1:9/postgres")
    assert said.value.key == "keys.store_away"


def test_an_outage_is_two_lines() -> None:
    told: list[object] = []
    absence = Absence(told.append, told.append)
    absence.found()
    first = OSError("no route")
    for fault in (first, OSError("still none"), OSError()):
        absence.missed(fault)
    absence.found()
    absence.found()
    assert told[0] is first and isinstance(told[1], float) and len(told) == 2
