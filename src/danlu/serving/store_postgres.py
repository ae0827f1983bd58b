"""Postgres as a store, for gateways on several machines. Needs psycopg 3 (extra `shared`)."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from danlu.core.errors import RunError
from danlu.serving.database import Transaction, Values

_WAIT_S = 5
"""Until a server that says nothing counts as away: one that is frozen, or behind a network that swallows all."""
_WRITE_S = 60
"""The same of a transaction: a piece of a journal may be some ten thousand rows."""
_PAUSE_S = 1.0
"""After a connection could not be made, so that all who wait do not wait one after the other."""
_SCHEMA_LOCK = 0x64616E6C75
"""Two servers that start at once make the tables one after the other."""


class Postgres:
    """A connection that is made again when it broke. A transaction that broke is not repeated: its caller knows."""

    def __init__(self, url: str, *, may_be_away: bool = False) -> None:
        try:
            import psycopg  # an extra: most have one machine
        except ImportError as error:
            raise RunError("keys.no_psycopg", where="serving.store") from error
        self._psycopg, self._url = psycopg, url
        self.errors: tuple[type[Exception], ...] = (psycopg.Error,)
        self._link: Any = None
        self._away: Exception | None = None
        self._until = 0.0
        try:
            known = psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise RunError("keys.bad_url", where="serving.store") from error
        self.where = f"postgres {known.get('host', '')}:{known.get('port', 5432)}/{known.get('dbname', '')}"
        self._version: object = None
        try:
            self._live()
        except psycopg.OperationalError as error:
            if may_be_away:
                return
            raise RunError("keys.store_away", where=self.where, reason=str(error).splitlines()[0]) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[Transaction]:
        link = self._live()
        with _within(_WRITE_S, link), link.transaction():
            link.execute("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
            yield _Transaction(link)

    def read(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        link = self._live()
        with _within(_WAIT_S, link):
            rows: list[tuple[Any, ...]] = link.execute(_marked(statement), values).fetchall()
        return rows

    def has_changed(self) -> bool:
        version = self.read("SELECT number FROM changes WHERE of_what = 'keys'")
        changed, self._version = version != self._version, version
        return changed

    def close(self) -> None:
        if self._link is not None:
            self._link.close()

    def _live(self) -> Any:
        if self._link is None or self._link.closed:
            if self._away is not None and time.monotonic() < self._until:
                raise self._away
            try:
                self._link = self._psycopg.connect(
                    self._url, autocommit=True, connect_timeout=_WAIT_S,
                    options=f"-c statement_timeout={_WAIT_S * 6000} -c timezone=UTC",
                )  # fmt: skip
            except self._psycopg.OperationalError as error:
                self._away, self._until = error.with_traceback(None), time.monotonic() + _PAUSE_S
                raise
        return self._link


@contextlib.contextmanager
def _within(seconds: float, link: Any) -> Iterator[None]:
    """Cut the connection where an answer takes longer: whoever waits for it is told then, as of any that broke."""

    def cut() -> None:
        with contextlib.suppress(OSError), socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM) as line:
            line.shutdown(socket.SHUT_RDWR)

    number = link.fileno()
    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Transaction:
    def __init__(self, link: Any) -> None:
        self._link = link

    def __call__(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        cursor = self._link.execute(_marked(statement), values)
        return [] if cursor.description is None else cursor.fetchall()

    def many(self, statement: str, rows: Iterable[Values]) -> None:
        with self._link.cursor() as cursor:
            cursor.executemany(_marked(statement), list(rows))


@functools.cache
def _marked(statement: str) -> str:
    """Places of values as psycopg marks them. No statement of ours holds `?` or `%` otherwise."""
    assert "%" not in statement, "would be taken for the place of a value"
    return statement.replace("?", "%s")
