"""Keys: a client's credential, kept as a peppered hash, with what it may use and how much.

A key reads `dl-<id>-<secret>`: the id is looked up, the secret's hash compared in constant time. The secret is shown
once, when it is made. `KeyBook` makes and changes keys, directly on the store; `LiveKeys` answers from memory, which a
thread renews as soon as the store changed, so a question never waits for a disk and a revocation is seen everywhere
within a second. A wrong key costs two hashes and a look into a dictionary, whatever is wrong with it: there is nothing
for a storm of them to fill or to slow down.
"""

from __future__ import annotations

import dataclasses
import hmac
import os
import re
import secrets
import stat
import string
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from danlu.core.errors import RunError
from danlu.core.files import sync_folder
from danlu.openai.refused import RefusedError
from danlu.serving.absence import Absence
from danlu.serving.private import is_exposed

MARK = "dl"
ID_LETTERS, SECRET_LETTERS = 12, 40
"""Of 36 and of 62 letters: 62 and 238 bits."""
_LETTERS = string.ascii_lowercase + string.digits
_CREDENTIAL = re.compile(rf"{MARK}-([a-z0-9]{{{ID_LETTERS}}})-[A-Za-z0-9]{{{SECRET_LETTERS}}}", re.ASCII)
_WRONG = f"{MARK}-{'0' * ID_LETTERS}-{'0' * SECRET_LETTERS}"
"""Is hashed in place of what has not a key's form, so that it costs the same."""
PEPPER = "pepper"
LOOK_S = 0.25
"""How often a worker asks whether the store changed."""
MOST_STALE_S = 900.0
"""How long keys go on working while the store cannot be asked: for so long a revocation may go unheard."""


@dataclass(frozen=True, slots=True)
class Key:
    """0 of a limit means: none. Times are seconds since 1970."""

    id: str
    name: str
    models: tuple[str, ...]
    """Model names (aliases, or immutable lenses) it may ask; `("*",)` is every one."""
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrency: int = 0
    tokens_per_month: int = 0
    expires: float = 0.0
    created: float = 0.0
    revoked: float = 0.0
    keeps_bodies: bool = False
    """Whether its questions and answers are kept, masked, in the audit (off by default)."""

    def may_use(self, model: str) -> bool:
        return "*" in self.models or model in self.models

    def is_good(self, now: float) -> bool:
        return not self.revoked and (not self.expires or now < self.expires)


class KeyStore(Protocol):
    """Where keys lie. `find` is asked on every request and must not wait for a disk: it answers from memory that is
    renewed when the store changed; a revoked key is refused within a second everywhere."""

    def find(self, credential: str, now: float) -> Key | None:
        """The key, if the credential is right and the key is neither revoked nor past its time. RefusedError where
        what is known is too old to say so."""
        ...


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as it is stored: hashes alone. `previous` is the secret before a rotation, good until `previous_until`."""

    key: Key
    digest: bytes
    previous: bytes = b""
    previous_until: float = 0.0


class KeyRecords(Protocol):
    """What keys ask of a store (store.py)."""

    where: str
    errors: tuple[type[Exception], ...]

    def put_key(self, sealed: StoredKey) -> None: ...

    def keys_since(self, change: int) -> tuple[int, list[StoredKey]]: ...

    def has_changed(self) -> bool: ...

    def pin(self, name: str, value: str) -> str: ...

    def fact(self, name: str) -> str | None: ...


class Remembered(Protocol):
    """What stays of the keys on this machine while their store is away (key_cache.py)."""

    def keep(self, seen: int, keys: Mapping[str, StoredKey]) -> None: ...

    def read(self, most_age_s: float) -> tuple[int, list[StoredKey], float] | None: ...


class Pepper:
    """32 random bytes beside the database, not in it: who has the database alone cannot try secrets."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def open(cls, path: Path, *, is_first: bool = True) -> Pepper:
        """Read it, or make it once where `is_first`. RunError when others may read it, or it should have been there."""
        try:
            return cls._read(path)
        except FileNotFoundError:
            if not is_first:
                raise RunError("keys.pepper_missing", where=str(path)) from None
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(fresh, path)  # the first one stays, whoever comes second
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
            sync_folder(path.parent)
            return cls._read(path)

    @classmethod
    def _read(cls, path: Path) -> Pepper:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            secret = file.read(64)
        if is_exposed(found):
            raise RunError("keys.pepper_open", where=str(path), mode=f"{stat.S_IMODE(found.st_mode):04o}")
        if len(secret) != 32:
            raise RunError("keys.pepper_bad", where=str(path), given=len(secret))
        return cls(secret)

    def seal(self, credential: str) -> bytes:
        return hmac.digest(self._secret, credential.encode("utf-8", "surrogatepass"), "sha256")

    @property
    def mark(self) -> str:
        """Tells two peppers apart, and nothing else of them."""
        return self.seal("mark of the pepper").hex()[:16]


class LiveKeys:
    """The `KeyStore` of a worker: all keys in memory. `watch` starts the thread that keeps them fresh. Where the store
    is away at the start, they are those of `cache`, if they are not too old."""

    def __init__(
        self,
        store: KeyRecords,
        pepper: Pepper,
        *,
        most_stale_s: float = MOST_STALE_S,
        cache: Remembered | None = None,
    ) -> None:
        self._store, self._seal, self._most_stale_s, self._cache = store, pepper.seal, most_stale_s, cache
        self._keys: dict[str, StoredKey] = {}
        self._seen = -1
        self._nobody = StoredKey(Key("", "", ()), os.urandom(32), os.urandom(32))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._looked = 0.0
        try:
            check_pepper(store, pepper)
            self.refresh()
        except store.errors:
            remembered = cache.read(most_stale_s) if cache is not None else None
            if remembered is None:
                raise
            self._seen, known, age_s = remembered
            self._keys = self._with(known)
            self._looked = time.monotonic() - age_s

    def find(self, credential: str, now: float) -> Key | None:
        """See `KeyStore`. Each of the two hashes is compared, whoever asks and whatever is found."""
        if self._thread is not None and self.stale_s > self._most_stale_s:
            raise store_away()
        formed = _CREDENTIAL.fullmatch(credential)
        digest = self._seal(credential if formed else _WRONG)
        sealed = self._keys.get(formed[1] if formed else "", self._nobody)
        is_current = hmac.compare_digest(digest, sealed.digest)
        is_previous = hmac.compare_digest(digest, sealed.previous) and now < sealed.previous_until
        is_right = (is_current or is_previous) and formed is not None and sealed is not self._nobody
        return sealed.key if is_right and sealed.key.is_good(now) else None

    def refresh(self) -> None:
        """Take over what changed in the store since last time: a question to the database, and a row a changed key."""
        seen, changed = self._store.keys_since(self._seen)
        keys = self._with(changed)
        if self._cache is not None:  # first: what was refused once stays refused, whenever this worker dies
            self._cache.keep(seen, keys)
        self._keys, self._seen, self._looked = keys, seen, time.monotonic()

    def _with(self, changed: Sequence[StoredKey]) -> dict[str, StoredKey]:
        """Where there is no previous secret, the comparison is made all the same."""
        if not changed:
            return self._keys
        blind = self._nobody.previous
        return self._keys | {one.key.id: dataclasses.replace(one, previous=one.previous or blind) for one in changed}

    def watch(
        self, failed: Callable[[Exception], None] | None = None, back: Callable[[float], None] | None = None
    ) -> None:
        """Look from now on, each quarter of a second. That the database is away is told to `failed` once, and to `back`
        for how long it was; until then what is known holds (`stale_s`), but no longer than `most_stale_s`."""
        assert self._thread is None, "watched already"
        self._thread = threading.Thread(target=self._look, args=(Absence(failed, back),), name="keys", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def stale_s(self) -> float:
        """For how long the store has not been seen."""
        return time.monotonic() - self._looked

    def _look(self, absence: Absence) -> None:
        expected: tuple[type[Exception], ...] = (OSError, *self._store.errors)
        is_behind = False  # a change is told once: what broke off behind it is asked again
        while not self._stop.wait(LOOK_S):
            try:
                is_behind = self._store.has_changed() or is_behind
                if is_behind:
                    self.refresh()
                    is_behind = False
                else:
                    self._looked = time.monotonic()
                    if self._cache is not None:
                        self._cache.keep(self._seen, self._keys)
            except expected as error:
                absence.missed(error)
            else:
                absence.found()


class KeyBook:
    """Makes, changes and shows keys, with or without a server running."""

    def __init__(self, store: KeyRecords, pepper: Pepper) -> None:
        check_pepper(store, pepper)
        self.store, self.pepper = store, pepper

    def create(
        self, name: str, models: Sequence[str] = ("*",), *, now: float, limits: Key | None = None
    ) -> tuple[Key, str]:
        """A new key and its credential, which is nowhere kept. `limits`: a key that lends limits and expiry."""
        lent = limits or Key("", "", ())
        if not name.strip() or len(name) > 200 or not name.isprintable():
            raise RunError("keys.bad_name", where=name[:40])
        if not models:
            raise RunError("keys.no_models", where=name)
        if lent.expires and lent.expires <= now:
            raise RunError("keys.past", where=name)
        key = dataclasses.replace(lent, id=_word(_LETTERS, ID_LETTERS), name=name, models=tuple(models), created=now)
        credential = self._credential(key.id)
        self.store.put_key(StoredKey(key, self.pepper.seal(credential)))
        return key, credential

    def rotate(self, named: str, *, now: float, overlap_s: float) -> tuple[Key, str]:
        """A new secret for a key; the old one is good for `overlap_s` more. Limits and usage go on: the id stays."""
        old = self.find(named)
        if not old.key.is_good(now):
            raise RunError("keys.not_good", where=named)
        credential = self._credential(old.key.id)
        self.store.put_key(StoredKey(old.key, self.pepper.seal(credential), old.digest, now + overlap_s))
        return old.key, credential

    def change(self, named: str, limits: Key) -> Key:
        """Another name, models, limits or expiry; the id, the secret and what was used stay."""
        old = self.find(named)
        if old.key.revoked:
            raise RunError("keys.not_good", where=named)
        key = dataclasses.replace(limits, id=old.key.id, created=old.key.created, revoked=0.0)
        self.store.put_key(dataclasses.replace(old, key=key))
        return key

    def revoke(self, named: str, *, now: float) -> Key:
        """At once and for ever, the previous secret too."""
        old = self.find(named)
        if old.key.revoked:
            return old.key
        key = dataclasses.replace(old.key, revoked=now)
        self.store.put_key(StoredKey(key, old.digest))
        return key

    def find(self, named: str) -> StoredKey:
        """A key by its id, or by its name where one good key alone has it."""
        known = {sealed.key.id: sealed for sealed in self.all()}
        if named in known:
            return known[named]
        same = [sealed for sealed in known.values() if sealed.key.name == named]
        same = [sealed for sealed in same if not sealed.key.revoked] or same
        if not same:
            raise RunError("keys.unknown", where=named)
        if len(same) > 1:
            raise RunError("keys.ambiguous", where=named, ids=", ".join(sealed.key.id for sealed in same))
        return same[0]

    def all(self) -> list[StoredKey]:
        """In the order they were made."""
        return sorted(self.store.keys_since(-1)[1], key=lambda sealed: (sealed.key.created, sealed.key.id))

    def _credential(self, id: str) -> str:
        return f"{MARK}-{id}-{_word(string.ascii_letters + string.digits, SECRET_LETTERS)}"


def check_pepper(store: KeyRecords, pepper: Pepper) -> None:
    """RunError when the keys in the store were made with another pepper: none of them would be right."""
    if store.pin("pepper", pepper.mark) != pepper.mark:
        raise RunError("keys.other_pepper", where=store.where)


def open_pepper(store: KeyRecords, path: Path) -> Pepper:
    """The pepper of a store; made only where the store has no keys yet, for several machines share one. Of one that is
    away nobody knows, so it has to be there."""
    try:
        is_first = store.fact("pepper") is None
    except store.errors:
        is_first = False
    return Pepper.open(path, is_first=is_first)


def store_away() -> RefusedError:
    """What a client is told when the store is needed and cannot be asked."""
    return RefusedError("keys.store_unavailable", status=503, headers=((b"retry-after", b"2"),))


def id_of(credential: str) -> str:
    """The id in what looks like a key, or "": what a log may show of it."""
    formed = _CREDENTIAL.fullmatch(credential)
    return formed[1] if formed else ""


def _word(letters: str, length: int) -> str:
    return "".join(secrets.choice(letters) for _ in range(length))
