"""The same tests on SQLite and on a real Postgres: keys, their changes, usage and what is spent."""

import sqlite3
import threading
from pathlib import Path

import pytest

from danlu.core.errors import RunError
from danlu.serving.keys import Key, KeyBook, LiveKeys, Pepper
from danlu.serving.store import DATABASE, URL, JournalPlace, Settlement, Store, UsageRow, open_store
from danlu.serving.store_sqlite import SQLite
from waiting_kit import until_true

NOW = 1_795_357_000.0


@pytest.fixture(params=["sqlite", "postgres"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A home whose store is the one or the other."""
    if request.param == "postgres":
        (tmp_path / URL).write_text(request.getfixturevalue("postgres_url") + "\n")
    return tmp_path


@pytest.fixture
def store(home: Path) -> Store:
    return open_store(home)


def use(n: int, **changes: object) -> UsageRow:
    plain = {
        "journal": "w0-a", "n": n, "request": f"r{n}", "opened": NOW, "day": "2026-11-22", "key_id": "k", "model": "law",
        "lens": "law@1", "replica": "p-0", "kind": "chat", "reserved": 100,
    }  # fmt: skip
    return UsageRow(**(plain | changes))


def done(n: int, prompt: int = 30, answer: int = 12) -> Settlement:
    return Settlement("done", 200, prompt, answer, 1, 0.1, 0.2, "w0-a", n)


def test_a_key_comes_back_as_it_was_put(store: Store, tmp_path: Path) -> None:
    lent = Key("", "", (), 60, 10_000, 4, 1_000_000, NOW + 9.25, keeps_bodies=True)
    book = KeyBook(store, Pepper.open(tmp_path / "pepper"))
    key, _ = book.create("前台 '; DROP TABLE keys; --", ["law", "tcm"], now=NOW, limits=lent)
    (sealed,) = book.all()
    assert sealed.key == key and key.models == ("law", "tcm") and key.expires == NOW + 9.25 and key.keeps_bodies


def test_changes_are_numbered_and_told_once(store: Store, tmp_path: Path) -> None:
    book = KeyBook(store, Pepper.open(tmp_path / "pepper"))
    first, _ = book.create("a", now=NOW)
    seen, changed = store.keys_since(-1)
    assert [one.key.id for one in changed] == [first.id]
    assert store.keys_since(seen) == (seen, [])
    second, _ = book.create("b", now=NOW)
    book.revoke(first.id, now=NOW)
    seen, changed = store.keys_since(seen)
    assert [one.key.id for one in changed] == [second.id, first.id] and changed[1].key.revoked == NOW


def test_another_connection_sees_that_something_changed(home: Path) -> None:
    ours, theirs = open_store(home), open_store(home)
    ours.has_changed()
    assert not ours.has_changed()
    KeyBook(theirs, Pepper.open(home / "pepper")).create("a", now=NOW)
    assert ours.has_changed()
    assert not ours.has_changed()


def test_a_running_worker_sees_a_revocation(home: Path) -> None:
    pepper = Pepper.open(home / "pepper")
    book = KeyBook(open_store(home), pepper)
    key, credential = book.create("a", now=NOW)
    live = LiveKeys(open_store(home), pepper)
    live.watch()
    book.revoke(key.id, now=NOW)
    until_true(lambda: live.find(credential, NOW) is None)
    live.stop()


def test_keys_made_by_many_at_once_are_all_there(home: Path) -> None:
    pepper = Pepper.open(home / "pepper")

    def make() -> None:
        book = KeyBook(open_store(home), pepper)
        for number in range(10):
            book.create(f"key {number}", now=NOW)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    live = LiveKeys(open_store(home), pepper)
    for thread in threads:
        thread.join()
    live.refresh()
    assert len(live._keys) == 40  # none is left out by a reader that looked while others wrote


def test_a_pepper_of_another_store_is_refused(store: Store, tmp_path: Path) -> None:
    KeyBook(store, Pepper.open(tmp_path / "pepper"))
    with pytest.raises(RunError) as error:
        LiveKeys(store, Pepper.open(tmp_path / "other"))
    assert error.value.key == "keys.other_pepper"


def test_folding_twice_counts_once(store: Store) -> None:
    before, after = JournalPlace(), JournalPlace(400, 2, "ab")
    assert store.fold("w0-a", before, after, [use(1)], [done(1)])
    assert not store.fold("w0-a", before, after, [use(1)], [done(1)])  # another had done it
    assert store.place_of("w0-a") == after
    (row,) = store.sums("2026-11-22", "2026-11-22")
    assert (row.requests, row.prompt_tokens, row.answer_tokens, row.done, row.open) == (1, 30, 12, 1, 0)


def test_what_stays_open_is_lost_once_and_charged_as_reserved(store: Store) -> None:
    store.fold("w0-a", JournalPlace(), JournalPlace(400, 3, "ab"), [use(1), use(2, key_id="other")], [done(1)])
    assert store.spent("2026-11-01", "2026-12-01") == {"k": 42, "other": 100}  # open counts in full
    assert store.lose("w0-a") == [("other", NOW, 100)]
    assert store.lose("w0-a") == []
    rows = {row.key_id: row for row in store.sums("2026-11-22", "2026-11-22")}
    assert (rows["other"].lost, rows["other"].answer_tokens, rows["other"].uncounted) == (1, 100, 1)
    assert store.spent("2026-11-01", "2026-12-01") == {"k": 42, "other": 100}
    assert store.spent("2026-12-01", "2027-01-01") == {}


def test_a_fold_that_fails_leaves_nothing(store: Store) -> None:
    with pytest.raises(store.errors):
        store.fold("w0-a", JournalPlace(), JournalPlace(400, 1, "ab"), [use(1, lens=None)], [])
    assert store.place_of("w0-a") == JournalPlace()
    assert store.fold("w0-a", JournalPlace(), JournalPlace(400, 1, "ab"), [use(1)], [])


def test_a_store_of_a_later_version_is_refused(home: Path) -> None:
    store = open_store(home)
    with store._database.writing() as run:
        run("UPDATE facts SET value = '9' WHERE name = 'version'")
    with pytest.raises(RunError) as error:
        open_store(home)
    assert error.value.key == "keys.store_version"


def test_a_database_that_is_away_is_told_without_its_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(RunError) as error:
        open_store(Path("nowhere"), "postgresql://danlu:sesame@127.0.0.1:1/danlu")
    assert error.value.key == "keys.store_away" and "sesame" not in str(error.value)


def test_a_damaged_file_is_told_to_people(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"no database" * 500)
    with pytest.raises(RunError, match=r"serving\.db.*not a database"):
        open_store(tmp_path)


def test_a_disk_that_was_full_stops_nobody_afterwards(tmp_path: Path) -> None:
    """A transaction that could not be ended stayed open: usage was never folded again until a restart."""
    database = SQLite(tmp_path / DATABASE)
    with database.writing() as run:
        run("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
        run(
            "CREATE TABLE children (of INTEGER, FOREIGN KEY (of) REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)"
        )
    database.read("PRAGMA foreign_keys = ON")
    with pytest.raises(sqlite3.IntegrityError), database.writing() as run:
        run("INSERT INTO children VALUES (7)")  # refused by COMMIT alone, as a full disk may be
    with database.writing() as run:
        run("INSERT INTO parents VALUES (1)")
    assert database.read("SELECT * FROM children") == []


def test_a_store_file_is_its_owners_alone(tmp_path: Path) -> None:
    KeyBook(open_store(tmp_path), Pepper.open(tmp_path / "pepper")).create("a", now=NOW)
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


def test_many_that_open_a_new_home_at_once_all_get_in(home: Path) -> None:
    failed: list[Exception] = []

    def enter() -> None:
        try:
            open_store(home).close()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_connection_that_broke_is_made_again(postgres_url: str, tmp_path: Path) -> None:
    """The database was started anew: the first question fails, the next is answered."""
    import psycopg

    opened = open_store(tmp_path, postgres_url)
    KeyBook(opened, Pepper.open(tmp_path / "pepper")).create("a", now=NOW)
    with psycopg.connect(postgres_url, autocommit=True) as link:
        link.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    with pytest.raises(opened.errors):
        opened.keys_since(-1)
    assert len(opened.keys_since(-1)[1]) == 1
    with psycopg.connect(postgres_url, autocommit=True) as link:
        link.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    with pytest.raises(opened.errors):
        opened.fold("w0-a", JournalPlace(), JournalPlace(400, 1, "ab"), [use(1)], [])
    assert opened.fold("w0-a", JournalPlace(), JournalPlace(400, 1, "ab"), [use(1)], [])
