"""What was last seen of the keys, in a file, for a worker that has to start while their store is away: ids, peppered
hashes, limits and revocations; no secret. So what was revoked before the store went stays revoked.

Any worker writes it when keys changed, and anew every `KEEP_S` as long as it sees the store. It is used no longer than
keys are good without their store at all (`keys.MOST_STALE_S`); one of the future, as a clock that was set back makes
it, is not used. It is its owner's alone, and sealed with the pepper, its time too: what a server with another pepper
wrote is not taken, nor another store's, and a copy is as old as what was copied.
"""

from __future__ import annotations

import contextlib
import hmac
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from danlu.serving.keys import Key, Pepper, StoredKey
from danlu.serving.private import is_exposed, write_private

FILE = "keys.cache"
KEEP_S = 15.0


class KeyCache:
    """As `LiveKeys` asks of it: `keep` at each look, `read` where the store is away at the start."""

    def __init__(self, home: Path, pepper: Pepper, where: str, *, clock: Callable[[], float] = time.time) -> None:
        """`where`: which store's keys these are."""
        self._path, self._pepper, self._where, self._clock = home / FILE, pepper, where, clock
        self._seen, self._kept, self._body = -1, -math.inf, b""

    def keep(self, seen: int, keys: Mapping[str, StoredKey]) -> None:
        """The store was there just now, and this is what it holds. A full disk is no fault of the keys."""
        now = self._clock()
        if seen != self._seen:
            self._seen, self._kept = seen, -math.inf
            self._body = orjson.dumps([_plain(one) for one in keys.values()])
        if 0 <= now - self._kept < KEEP_S:
            return
        with contextlib.suppress(OSError):
            known = self._head()  # another worker may have written it a moment ago
            if known.get("seen") != seen or not 0 <= now - known["at"] < KEEP_S:
                self._write(now)
            self._kept = now

    def read(self, most_age_s: float) -> tuple[int, list[StoredKey], float] | None:
        """The number of the last change, the keys, and for how long they have not been looked at; None where there is
        nothing that may be used."""
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                head, _, body = file.read().partition(b"\n")
        except OSError:
            return None
        said = self._sealed(head, body)
        if said is None or is_exposed(found):
            return None
        age_s = self._clock() - said["at"]
        if not 0 <= age_s <= most_age_s:
            return None
        try:
            return said["seen"], [_stored(one) for one in orjson.loads(body)], age_s
        except (TypeError, KeyError):  # a newer or older danlu wrote it, whose keys have other fields
            return None

    def _write(self, now: float) -> None:
        head = {"seen": self._seen, "where": self._where, "at": now}
        write_private(self._path, orjson.dumps(head | {"seal": self._seal(head, self._body)}) + b"\n" + self._body)

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
        return said if is_ours and said.get("where") == self._where and "at" in said else None

    def _seal(self, head: Mapping[str, Any], body: bytes) -> str:
        text = orjson.dumps(head, option=orjson.OPT_SORT_KEYS) + b"\n" + body
        return self._pepper.seal("cache of keys\n" + text.decode(errors="surrogateescape")).hex()


def _plain(stored: StoredKey) -> dict[str, Any]:
    return asdict(stored.key) | {
        "digest": stored.digest.hex(), "previous": stored.previous.hex(), "previous_until": stored.previous_until,
    }  # fmt: skip


def _stored(said: dict[str, Any]) -> StoredKey:
    digest, previous, until = (said.pop(name) for name in ("digest", "previous", "previous_until"))
    key = Key(**said | {"models": tuple(said["models"])})
    return StoredKey(key, bytes.fromhex(digest), bytes.fromhex(previous), until)
