"""SQLite as a store: one file in WAL mode, readers never wait for the writer."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from danlu.core.errors import RunError
from danlu.serving.database import Transaction, Values

_WAIT_S = 30.0


class SQLite:
    """A connection to the file, which is its owner's alone (0600)."""

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # its -wal and -shm take over the mode
        try:
            self._link = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            self._link.execute("PRAGMA journal_mode = WAL")
            self._link.execute("PRAGMA synchronous = FULL")  # a key that was revoked stays so, whatever the power does
        except sqlite3.Error as error:  # no database, a full disk, a folder that may only be read
            raise RunError("keys.store_bad", where=self.where, reason=str(error)) from error
        self._version: int = -1

    @contextlib.contextmanager
    def writing(self) -> Iterator[Transaction]:
        self._link.execute("BEGIN IMMEDIATE")
        try:
            yield _Transaction(self._link)
            self._link.execute("COMMIT")
        finally:
            if self._link.in_transaction:  # not kept, and not undone by a full disk: it would stop all others
                self._link.execute("ROLLBACK")

    def read(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        return self._link.execute(statement, values).fetchall()

    def has_changed(self) -> bool:
        """`data_version` grows when another connection commits; this one's own commits it does not see."""
        ((version,),) = self._link.execute("PRAGMA data_version").fetchall()
        before, self._version = self._version, int(version)
        return before != self._version

    def close(self) -> None:
        self._link.close()


class _Transaction:
    def __init__(self, link: sqlite3.Connection) -> None:
        self._link = link

    def __call__(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        return self._link.execute(statement, values).fetchall()

    def many(self, statement: str, rows: Iterable[Values]) -> None:
        self._link.executemany(statement, rows)
