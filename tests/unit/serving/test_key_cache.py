"""Keys that a worker knows although it started while their store was away: as they were last seen, and not for long."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from danlu.openai.refused import RefusedError
from danlu.serving import key_cache
from danlu.serving.key_cache import FILE, KEEP_S, KeyCache
from danlu.serving.keys import MOST_STALE_S, Key, KeyBook, LiveKeys, Pepper, open_pepper
from danlu.serving.store import Store, open_store
from servers import PostgresServer, running_postgres
from waiting_kit import until_true

NOW = 1_795_357_000.0


class AwayError(Exception):
    """What a database raises that is not there."""


class Gone:
    """A store that is away."""

    where, errors = "postgres db:5432/danlu", (AwayError,)

    def __getattr__(self, name: str) -> object:
        raise AwayError(name)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path)
    opened.where = Gone.where
    yield opened
    opened.close()


def cache_of(home: Path, pepper: Pepper, **more: object) -> KeyCache:
    return KeyCache(home, pepper, Gone.where, **more)


def test_a_worker_that_starts_without_the_store_knows_what_others_knew(tmp_path: Path, store: Store) -> None:
    pepper = Pepper.open(tmp_path / "pepper")
    book = KeyBook(store, pepper)
    desk, desk_secret = book.create("desk", ("law",), now=NOW, limits=Key("", "", (), requests_per_minute=60))
    _, gone_secret = book.create("gone", now=NOW)
    _, old_secret = book.create("turned", now=NOW)
    _, new_secret = book.rotate("turned", now=NOW, overlap_s=3600)
    before = LiveKeys(store, pepper, cache=cache_of(tmp_path, pepper))
    book.revoke("gone", now=NOW)
    before.refresh()  # a quarter of a second later
    fresh = LiveKeys(Gone(), pepper, cache=cache_of(tmp_path, pepper))
    assert fresh.find(desk_secret, NOW) == desk and desk.models == ("law",) and desk.requests_per_minute == 60
    assert fresh.find(gone_secret, NOW) is None, "a revocation known before the outage holds"
    assert fresh.find(new_secret, NOW) and fresh.find(old_secret, NOW)
    assert fresh.find(old_secret, NOW + 7200) is None and fresh.find(new_secret, NOW + 7200)
    assert fresh.find("dl-" + "0" * 12 + "-" + "0" * 40, NOW) is None


def test_the_file_is_its_owners_alone_and_holds_no_secret(tmp_path: Path, store: Store) -> None:
    pepper = Pepper.open(tmp_path / "pepper")
    _, secret = KeyBook(store, pepper).create("desk", now=NOW)
    LiveKeys(store, pepper, cache=cache_of(tmp_path, pepper))
    path = tmp_path / FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret.rpartition("-")[2] not in path.read_text()
    path.chmod(0o640)
    with pytest.raises(AwayError):
        LiveKeys(Gone(), pepper, cache=cache_of(tmp_path, pepper))


def test_it_is_used_for_as_long_as_keys_are_good_without_their_store_and_no_longer(
    tmp_path: Path, store: Store
) -> None:
    pepper = Pepper.open(tmp_path / "pepper")
    _, secret = KeyBook(store, pepper).create("desk", now=NOW)
    LiveKeys(store, pepper, cache=cache_of(tmp_path, pepper, clock=lambda: NOW))
    late = LiveKeys(Gone(), pepper, cache=cache_of(tmp_path, pepper, clock=lambda: NOW + MOST_STALE_S - 0.5))
    assert late.stale_s > MOST_STALE_S - 1, "and what is left of that time is all that it has"
    late.watch()
    assert late.find(secret, NOW)
    until_true(lambda: late.stale_s > MOST_STALE_S)
    with pytest.raises(RefusedError):
        late.find(secret, NOW)
    late.stop()
    for now in (NOW + MOST_STALE_S + 1, NOW - 60):  # too old; and written by a clock that was ahead
        with pytest.raises(AwayError):
            LiveKeys(Gone(), pepper, cache=cache_of(tmp_path, pepper, clock=lambda now=now: now))


@pytest.mark.parametrize("harm", ["limits", "torn", "pepper", "store", "empty", "odd", "bytes"])
def test_what_nobody_of_us_wrote_is_not_taken(harm: str, tmp_path: Path, store: Store) -> None:
    pepper = Pepper.open(tmp_path / "pepper")
    KeyBook(store, pepper).create("desk", now=NOW, limits=Key("", "", (), requests_per_minute=7))
    LiveKeys(store, pepper, cache=cache_of(tmp_path, pepper))
    path, cache = tmp_path / FILE, cache_of(tmp_path, pepper)
    written = path.read_bytes()
    match harm:
        case "limits":
            path.write_bytes(written.replace(b'"requests_per_minute":7', b'"requests_per_minute":9'))
        case "torn":
            path.write_bytes(written[:-20])
        case "pepper":
            cache = cache_of(tmp_path, Pepper.open(tmp_path / "other"))
        case "store":
            cache = KeyCache(tmp_path, pepper, "postgres elsewhere")
        case "empty":
            path.write_bytes(b"")
        case "odd":
            path.write_bytes(b'{"seal":5}\n[]')
        case "bytes":
            path.write_bytes(written[:-9] + b"\xff" * 9)
    assert cache.read(1e12) is None


def test_a_copy_is_as_old_as_what_was_copied(tmp_path: Path, store: Store) -> None:
    """A folder that came back from a backup, or was copied without its times, made revoked keys good again."""
    pepper, clock = Pepper.open(tmp_path / "pepper"), [NOW]
    book = KeyBook(store, pepper)
    book.create("desk", now=NOW)
    live = LiveKeys(store, pepper, cache=cache_of(tmp_path, pepper, clock=lambda: clock[0]))
    copy = (tmp_path / FILE).read_bytes()
    book.revoke("desk", now=NOW)
    live.refresh()
    clock[0] += MOST_STALE_S + 1
    (tmp_path / FILE).write_bytes(copy)
    os.utime(tmp_path / FILE, (clock[0], clock[0]))
    with pytest.raises(AwayError):
        LiveKeys(Gone(), pepper, cache=cache_of(tmp_path, pepper, clock=lambda: clock[0]))


def test_it_is_written_when_keys_changed_and_now_and_then_as_long_as_they_are_seen(
    tmp_path: Path, store: Store
) -> None:
    pepper, clock, path = Pepper.open(tmp_path / "pepper"), [NOW], tmp_path / FILE
    book = KeyBook(store, pepper)
    book.create("a", now=NOW)
    one, two = (LiveKeys(store, pepper, cache=cache_of(tmp_path, pepper, clock=lambda: clock[0])) for _ in range(2))
    first = path.read_bytes()
    clock[0] += KEEP_S - 1
    one.refresh(), two.refresh()
    assert path.read_bytes() == first
    clock[0] += 60
    one.refresh()
    again = path.read_bytes()
    assert again != first
    clock[0] += 5
    two.refresh()
    assert path.read_bytes() == again, "another worker has just written it"
    book.create("b", now=NOW)
    one.refresh(), two.refresh()
    assert path.read_bytes() != again
    _, known, _ = cache_of(tmp_path, pepper, clock=lambda: clock[0]).read(60) or (0, [], 0)
    plain = {stored.key.name: dataclasses.replace(stored, previous=b"") for stored in known}
    assert plain == {stored.key.name: stored for stored in book.all()} and plain.keys() == {"a", "b"}


def test_a_disk_that_takes_nothing_is_no_fault_of_the_keys(tmp_path: Path, store: Store) -> None:
    pepper = Pepper.open(tmp_path / "pepper")
    _, secret = KeyBook(store, pepper).create("desk", now=NOW)
    cache = KeyCache(tmp_path / "pepper", pepper, Gone.where)  # a file where a folder should be
    assert LiveKeys(store, pepper, cache=cache).find(secret, NOW)


def test_a_store_that_may_be_away_is_opened_and_answers_when_it_is_back(tmp_path: Path) -> None:
    with running_postgres() as server:
        _story(tmp_path, server)


def _story(home: Path, server: PostgresServer) -> None:
    store = open_store(home, server.url)
    pepper = Pepper.open(home / "pepper")
    book = KeyBook(store, pepper)
    _, secret = book.create("desk", now=NOW)
    LiveKeys(store, pepper, cache=KeyCache(home, pepper, store.where))
    server.stop()
    away = open_store(home, server.url, may_be_away=True)
    found = open_pepper(away, home / "pepper")
    keys = LiveKeys(away, found, cache=KeyCache(home, found, away.where))
    assert keys.find(secret, NOW)
    keys.watch()
    server.start()
    book = KeyBook(open_store(home, server.url), pepper)
    book.revoke("desk", now=NOW)
    until_true(lambda: keys.find(secret, NOW) is None, lambda: "a revocation is not heard of when the store is back")
    keys.stop()


def test_what_a_danlu_with_other_fields_wrote_is_left_aside(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pepper, plain = Pepper.open(tmp_path / "pepper"), key_cache._plain
    KeyBook(store, pepper).create("desk", now=NOW)
    monkeypatch.setattr(key_cache, "_plain", lambda stored: plain(stored) | {"tier": "gold"})
    LiveKeys(store, pepper, cache=cache_of(tmp_path, pepper))
    assert (tmp_path / FILE).is_file()
    monkeypatch.undo()
    assert cache_of(tmp_path, pepper).read(60.0) is None
