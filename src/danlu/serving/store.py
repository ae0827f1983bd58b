"""The store: keys and usage in a database. One set of statements for SQLite and Postgres; the two differ in how a
connection is made, how a change is seen and how a value's place is marked, and in nothing else.

What is true of usage lies in the journals (journal.py): its table can be thrown away and folded again. Every value goes
to the database as a value, never as text of a statement.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import RunError
from danlu.serving.database import Database
from danlu.serving.keys import Key, StoredKey
from danlu.serving.store_sqlite import SQLite

VERSION = "1"
DATABASE = "serving.db"
URL = "store.url"
"""A file in the home that holds a Postgres URL, where the store is not the SQLite file beside it."""

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS changes (of_what TEXT PRIMARY KEY, number BIGINT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS keys (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, models TEXT NOT NULL,
        requests_per_minute BIGINT NOT NULL, tokens_per_minute BIGINT NOT NULL, concurrency BIGINT NOT NULL,
        tokens_per_month BIGINT NOT NULL, expires DOUBLE PRECISION NOT NULL, created DOUBLE PRECISION NOT NULL,
        revoked DOUBLE PRECISION NOT NULL, keeps_bodies BIGINT NOT NULL,
        digest TEXT NOT NULL, previous TEXT NOT NULL, previous_until DOUBLE PRECISION NOT NULL,
        change_number BIGINT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS keys_by_change ON keys (change_number)",
    """CREATE TABLE IF NOT EXISTS journals (
        journal TEXT PRIMARY KEY, at_byte BIGINT NOT NULL, n BIGINT NOT NULL, head TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS usage (
        journal TEXT NOT NULL, n BIGINT NOT NULL, request TEXT NOT NULL, opened DOUBLE PRECISION NOT NULL,
        day TEXT NOT NULL, key_id TEXT NOT NULL, model TEXT NOT NULL, lens TEXT NOT NULL, replica TEXT NOT NULL,
        kind TEXT NOT NULL, reserved BIGINT NOT NULL, outcome TEXT NOT NULL, status BIGINT NOT NULL,
        prompt_tokens BIGINT NOT NULL, answer_tokens BIGINT NOT NULL, is_counted BIGINT NOT NULL,
        first_s DOUBLE PRECISION NOT NULL, whole_s DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (journal, n))""",
    "CREATE INDEX IF NOT EXISTS usage_by_day ON usage (day, key_id)",
    "CREATE INDEX IF NOT EXISTS usage_by_request ON usage (request)",
    "CREATE INDEX IF NOT EXISTS usage_open ON usage (journal) WHERE outcome = 'open'",
)
_PUT_KEY = """INSERT INTO keys (id, name, models, requests_per_minute, tokens_per_minute, concurrency, tokens_per_month,
    expires, created, revoked, keeps_bodies, digest, previous, previous_until, change_number)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET name = excluded.name, models = excluded.models,
    requests_per_minute = excluded.requests_per_minute, tokens_per_minute = excluded.tokens_per_minute,
    concurrency = excluded.concurrency, tokens_per_month = excluded.tokens_per_month, expires = excluded.expires,
    revoked = excluded.revoked, keeps_bodies = excluded.keeps_bodies, digest = excluded.digest,
    previous = excluded.previous, previous_until = excluded.previous_until, change_number = excluded.change_number"""
_KEYS = """SELECT id, name, models, requests_per_minute, tokens_per_minute, concurrency, tokens_per_month, expires,
    created, revoked, keeps_bodies, digest, previous, previous_until, change_number FROM keys
    WHERE change_number > ? ORDER BY change_number"""
_PUT_USE = """INSERT INTO usage (journal, n, request, opened, day, key_id, model, lens, replica, kind, reserved,
    outcome, status, prompt_tokens, answer_tokens, is_counted, first_s, whole_s)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (journal, n) DO NOTHING"""
_CLOSE_USE = """UPDATE usage SET outcome = ?, status = ?, prompt_tokens = ?, answer_tokens = ?, is_counted = ?,
    first_s = ?, whole_s = ? WHERE journal = ? AND n = ? AND outcome IN ('open', 'lost')"""
_LOSE = """UPDATE usage SET outcome = 'lost', answer_tokens = reserved, is_counted = 0
    WHERE journal = ? AND outcome = 'open' RETURNING key_id, opened, reserved"""
_SPENT = """SELECT key_id, CAST(SUM(CASE WHEN outcome = 'open' THEN reserved ELSE prompt_tokens + answer_tokens END)
    AS BIGINT) FROM usage WHERE day >= ? AND day < ? GROUP BY key_id"""
_SUMS = """SELECT key_id, model, lens, day, COUNT(*), CAST(SUM(prompt_tokens) AS BIGINT),
    CAST(SUM(answer_tokens) AS BIGINT), CAST(SUM(CASE WHEN outcome = 'open' THEN reserved ELSE 0 END) AS BIGINT),
    CAST(SUM(CASE WHEN outcome = 'done' THEN 1 ELSE 0 END) AS BIGINT),
    CAST(SUM(CASE WHEN outcome = 'aborted' THEN 1 ELSE 0 END) AS BIGINT),
    CAST(SUM(CASE WHEN outcome IN ('failed', 'refused') THEN 1 ELSE 0 END) AS BIGINT),
    CAST(SUM(CASE WHEN outcome = 'lost' THEN 1 ELSE 0 END) AS BIGINT),
    CAST(SUM(CASE WHEN outcome = 'open' THEN 1 ELSE 0 END) AS BIGINT),
    CAST(SUM(CASE WHEN is_counted = 0 AND outcome <> 'open' THEN 1 ELSE 0 END) AS BIGINT)
    FROM usage WHERE day >= ? AND day <= ? GROUP BY key_id, model, lens, day ORDER BY day, key_id, model, lens"""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One request's row. `outcome` "open": not settled yet; (journal, n) is the place of its first line."""

    journal: str
    n: int
    request: str
    opened: float
    day: str
    """UTC, `2026-11-22`."""
    key_id: str
    model: str
    lens: str
    replica: str
    kind: str
    reserved: int
    outcome: str = "open"
    status: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    is_counted: int = 1
    first_s: float = 0.0
    whole_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Settlement:
    """What settles a row that was stored open."""

    outcome: str
    status: int
    prompt_tokens: int
    answer_tokens: int
    is_counted: int
    first_s: float
    whole_s: float
    journal: str
    n: int


@dataclass(frozen=True, slots=True)
class JournalPlace:
    """How far a journal was folded: the byte behind the last whole line, its number and its hash."""

    at_byte: int = 0
    n: int = -1
    head: str = ""


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Usage of a day by key, model and lens. `reserved_tokens` are those of rows still open, in no other figure."""

    key_id: str
    model: str
    lens: str
    day: str
    requests: int
    prompt_tokens: int
    answer_tokens: int
    reserved_tokens: int
    done: int
    aborted: int
    failed: int
    lost: int
    open: int
    uncounted: int
    """Rows whose tokens the engine did not count itself."""


class Store:
    """Keys and usage over a `Database`. Threads may share it; each question holds it for its own time."""

    def __init__(self, database: Database, *, may_be_away: bool = False) -> None:
        """`may_be_away`: for a process of a server that has opened it before, so that its tables are there."""
        self._database, self._turn = database, threading.RLock()
        self.where, self.errors = database.where, database.errors
        try:
            self._prepare()
        except self.errors:
            if not may_be_away:
                raise

    def _prepare(self) -> None:
        with self._database.writing() as run:
            for statement in SCHEMA:
                run(statement)
            run("INSERT INTO facts (name, value) VALUES ('version', ?) ON CONFLICT (name) DO NOTHING", (VERSION,))
            run("INSERT INTO changes (of_what, number) VALUES ('keys', 0) ON CONFLICT (of_what) DO NOTHING")
        version = self.fact("version")
        if version != VERSION:
            raise RunError("keys.store_version", where=self.where, given=version, expected=VERSION)

    def close(self) -> None:
        with self._turn:
            self._database.close()

    def has_changed(self) -> bool:
        with self._turn:
            return self._database.has_changed()

    def fact(self, name: str) -> str | None:
        with self._turn:
            rows = self._database.read("SELECT value FROM facts WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def pin(self, name: str, value: str) -> str:
        """Write a fact once; the value that stands."""
        known = self.fact(name)
        if known is None:
            with self._turn, self._database.writing() as run:
                run("INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (name, value))
            known = self.fact(name)
            assert known is not None, "just written"
        return known

    def put_key(self, sealed: StoredKey) -> None:
        """A new key, or one that changed. Each change has a number, given in the order of commits."""
        key = sealed.key
        with self._turn, self._database.writing() as run:
            ((number,),) = run("UPDATE changes SET number = number + 1 WHERE of_what = 'keys' RETURNING number")
            run(_PUT_KEY, (
                key.id, key.name, orjson.dumps(key.models).decode(), key.requests_per_minute, key.tokens_per_minute,
                key.concurrency, key.tokens_per_month, key.expires, key.created, key.revoked, int(key.keeps_bodies),
                sealed.digest.hex(), sealed.previous.hex(), sealed.previous_until, number,
            ))  # fmt: skip

    def keys_since(self, change: int) -> tuple[int, list[StoredKey]]:
        """Keys made or changed after a change, and the number of the last one; -1 gives all."""
        with self._turn:
            rows = self._database.read(_KEYS, (change,))
        return (rows[-1][-1] if rows else change), [_sealed(row) for row in rows]

    def place_of(self, journal: str) -> JournalPlace:
        with self._turn:
            rows = self._database.read("SELECT at_byte, n, head FROM journals WHERE journal = ?", (journal,))
        return JournalPlace(*rows[0]) if rows else JournalPlace()

    def fold(
        self,
        journal: str,
        before: JournalPlace,
        after: JournalPlace,
        uses: Sequence[UsageRow],
        endings: Sequence[Settlement],
    ) -> bool:
        """Store what stands between two places of a journal, in one transaction. False when another had folded it
        first: nothing is stored then, or stored twice."""
        with self._turn, self._database.writing() as run:
            run("INSERT INTO journals (journal, at_byte, n, head) VALUES (?, 0, -1, '') "
                "ON CONFLICT (journal) DO NOTHING", (journal,))  # fmt: skip
            is_ours = run(
                "UPDATE journals SET at_byte = ?, n = ?, head = ? WHERE journal = ? AND at_byte = ? RETURNING n",
                (after.at_byte, after.n, after.head, journal, before.at_byte),
            )
            if not is_ours:
                return False
            run.many(_PUT_USE, (astuple(use) for use in uses))
            run.many(_CLOSE_USE, (astuple(ending) for ending in endings))
        return True

    def lose(self, journal: str) -> list[tuple[str, float, int]]:
        """Settle what a dead worker left open as it was reserved: (key, time, tokens) of each row, told once."""
        with self._turn:
            if not self._database.read(
                "SELECT 1 FROM usage WHERE journal = ? AND outcome = 'open' LIMIT 1", (journal,)
            ):
                return []
            with self._database.writing() as run:
                return [(key, opened, tokens) for key, opened, tokens in run(_LOSE, (journal,))]

    def answer(self, request: str) -> tuple[str, str, str] | None:
        """Whose answer this was: key, model and lens. Known as soon as it is folded, a second or so after it began."""
        with self._turn:
            rows = self._database.read("SELECT key_id, model, lens FROM usage WHERE request = ? LIMIT 1", (request,))
        return rows[0] if rows else None

    def spent(self, since: str, until: str) -> dict[str, int]:
        """Tokens by key in days from `since` to before `until`; what is still open as it was reserved."""
        with self._turn:
            return dict(self._database.read(_SPENT, (since, until)))

    def sums(self, since: str, until: str) -> list[UsageSum]:
        """Usage by day, key, model and lens, of days from `since` to `until`, both included."""
        with self._turn:
            return [UsageSum(*row) for row in self._database.read(_SUMS, (since, until))]


def open_store(home: Path, url: str = "", *, may_be_away: bool = False) -> Store:
    """The store of a home: Postgres by `url` or by the file `store.url` there, else the SQLite file beside it."""
    file = home / URL
    if not url and file.exists():
        url = file.read_text(encoding="utf-8").strip()
    if url:
        from danlu.serving.store_postgres import Postgres  # psycopg is an extra

        return Store(Postgres(url, may_be_away=may_be_away), may_be_away=may_be_away)
    return Store(SQLite(home / DATABASE))


def _sealed(row: tuple[Any, ...]) -> StoredKey:
    id, name, models, requests, tokens, concurrency, month, expires, created, revoked, keeps, *rest = row
    key = Key(id, name, tuple(orjson.loads(models)), requests, tokens, concurrency, month, expires, created, revoked,
              bool(keeps))  # fmt: skip
    digest, previous, until, _ = rest
    return StoredKey(key, bytes.fromhex(digest), bytes.fromhex(previous), until)
