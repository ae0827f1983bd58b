"""What was last seen of the keys, in a file, for a worker that has to start while their store is away: ids, peppered
hashes, limits and revocations; no secret. So what was revoked before the store went stays revoked.

Any worker writes it when keys changed, and touches it as long as it sees the store. It is used no longer than keys are
good without their store at all (`keys.MOST_STALE_S`); a file of the future, as a clock that was set back makes one, is
not used. It is its owner's alone, and sealed with the pepper: what a server with another pepper wrote is not taken, nor
another store's.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from danlu.serving.keys import Key, Pepper, StoredKey
from danlu.serving.private import is_exposed, write_private

FILE = "keys.cache"
TOUCH_S = 15.0


class KeyCache:
    """As `LiveKeys` asks of it: `keep` at each look, `read` where the store is away at the start."""

    def __init__(self, home: Path, pepper: Pepper, where: str, *, clock: Callable[[], float] = time.time) -> None:
        """`where`: which store's keys these are."""
        self._path, self._pepper, self._where, self._clock = home / FILE, pepper, where, clock
        self._seen, self._touched = -1, 0.0

    def keep(self, seen: int, keys: Mapping[str, StoredKey]) -> None:
        """The store was there just now, and this is what it holds. A full disk is no fault of the keys."""
        now = self._clock()
        with contextlib.suppress(OSError):
            if seen != self._seen and self._head().get("seen") != seen:
                self._write(seen, keys.values())
            elif abs(now - self._touched) < TOUCH_S:
                return
            os.utime(self._path, (now, now))
            self._seen, self._touched = seen, now

    def read(self, most_age_s: float) -> tuple[int, list[StoredKey], float] | None:
        """The number of the last change, the keys, and for how long they have not been looked at; None where there is
        nothing that may be used."""
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                head, _, body = file.read().partition(b"\n")
        except OSError:
            return None
        age_s = self._clock() - found.st_mtime
        if is_exposed(found) or not 0 <= age_s <= most_age_s or self._sealed(head, body) is None:
            return None
        return orjson.loads(head)["seen"], [_stored(one) for one in orjson.loads(body)], age_s

    def _write(self, seen: int, keys: Iterable[StoredKey]) -> None:
        body = orjson.dumps([_plain(one) for one in keys])
        head = {"seen": seen, "where": self._where}
        seal = self._seal(head, body)
        write_private(self._path, orjson.dumps(head | {"seal": seal}) + b"\n" + body)

    def _head(self) -> dict[str, Any]:
        """Of what another worker wrote; empty where it is none of ours."""
        try:
            with self._path.open("rb") as file:
                head, _, body = file.read().partition(b"\n")
        except OSError:
            return {}
        return self._sealed(head, body) or {}

    def _sealed(self, head: bytes, body: bytes) -> dict[str, Any] | None:
        try:
            said = orjson.loads(head)
            seal = said.pop("seal")
        except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError):
            return None
        is_ours = isinstance(seal, str) and seal.isascii() and hmac.compare_digest(seal, self._seal(said, body))
        return said if is_ours and said.get("where") == self._where else None

    def _seal(self, head: Mapping[str, Any], body: bytes) -> str:
        text = orjson.dumps(head, option=orjson.OPT_SORT_KEYS) + b"\n" + body
        return self._pepper.seal("cache of keys\n" + text.decode()).hex()


def _plain(stored: StoredKey) -> dict[str, Any]:
    return asdict(stored.key) | {
        "digest": stored.digest.hex(), "previous": stored.previous.hex(), "previous_until": stored.previous_until,
    }  # fmt: skip


def _stored(said: dict[str, Any]) -> StoredKey:
    digest, previous, until = (said.pop(name) for name in ("digest", "previous", "previous_until"))
    key = Key(**said | {"models": tuple(said["models"])})
    return StoredKey(key, bytes.fromhex(digest), bytes.fromhex(previous), until)
