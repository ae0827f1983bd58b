"""The keys behind pseudonyms and records: one file, readable by its owner alone, outside of the data.

Two long-lived secrets: `index` makes a value's HMAC, `alias` makes pseudonyms. What is stored is the HMAC sealed under
the current epoch key: a permutation of 128 bits, a Feistel network of four rounds of keyed BLAKE2b (four rounds make a
strong permutation: Luby and Rackoff, 1988). Sealing keeps equality, so records can be searched; it can be opened with
the same epoch key, so records move to a new key without knowing the values, as long as the old one is there. Afterwards
the old one may be destroyed.

Nothing here prints, logs or pickles a secret: a pickled Keyring is the path of its file.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import DataError
from danlu.core.files import dump_json, sync_folder
from danlu.core.messages import listed
from danlu.data.privacy.finding import Family, canonical

FORMAT = 1
_BLOCK_BYTES = 16
_ROUNDS = 4
_REMEMBERED = 100_000


class Keyring:
    """`Keyring.open(path)`. Equal values have equal macs and aliases for as long as the secrets live."""

    def __init__(self, path: Path, tree: dict[str, Any]) -> None:
        self.path = path
        self._tree = tree
        self._index = base64.b64decode(tree["index"])
        self._alias = base64.b64decode(tree["alias"])
        self._epochs = {name: base64.b64decode(held["secret"]) for name, held in tree["keys"].items()}
        self._macs: dict[tuple[Family, str], str] = {}

    @classmethod
    def open(cls, path: Path | str, *, create: bool = True) -> Keyring:
        """DataError when the file is missing (and not to be made), damaged, or readable by others."""
        path = Path(path).expanduser()
        if create and not path.exists():
            _create(path)
        try:
            mode = path.stat().st_mode
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise DataError("privacy.no_key_file", where=str(path)) from error
        if os.name != "nt" and mode & 0o077:
            raise DataError("privacy.key_exposed", where=str(path), mode=f"{mode & 0o777:o}")
        with contextlib.suppress(orjson.JSONDecodeError, KeyError, ValueError, TypeError):
            tree = orjson.loads(content)
            if tree["format"] == FORMAT and tree["current"] in tree["keys"]:
                return cls(path.absolute(), tree)
        raise DataError("privacy.key_damaged", where=str(path))  # without its cause, which might quote the file

    def __repr__(self) -> str:
        return f"Keyring({str(self.path)!r}, current={self.current!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Keyring._reopened, (str(self.path),)

    @staticmethod
    def _reopened(path: str) -> Keyring:
        return Keyring.open(path, create=False)

    @property
    def current(self) -> str:
        """The id of the epoch key that new records are sealed under."""
        return str(self._tree["current"])

    @property
    def ids(self) -> list[str]:
        """Ids of all epoch keys that are still there."""
        return list(self._tree["keys"])

    @property
    def alias_id(self) -> str:
        """Names the alias secret without giving it away: equal ids make equal pseudonyms."""
        return _hmac(self._alias, b"id").hex()[:8]

    def mac(self, family: Family, value: str, key: str | None = None) -> str:
        """The sealed HMAC of a value, 32 hex digits, under an epoch key (None: the current one)."""
        asked = (family, value)
        if key is None and (known := self._macs.get(asked)) is not None:
            return known
        plain = f"{family}\0{canonical(family, value)}".encode("utf-8", "surrogatepass")
        sealed = _seal(self._epoch(key or self.current), _hmac(self._index, plain)[:_BLOCK_BYTES]).hex()
        if key is None:
            if len(self._macs) >= _REMEMBERED:
                self._macs.clear()
            self._macs[asked] = sealed
        return sealed

    def resealed(self, mac: str, old: str) -> str:
        """A record's mac under the current key instead of `old`; DataError when `old` is gone."""
        return _seal(self._epoch(self.current), _unseal(self._epoch(old), bytes.fromhex(mac))).hex()

    def alias_bytes(self, *words: str) -> bytes:
        """64 bytes that follow from the alias secret and the words alone: what pseudonyms are drawn with."""
        return hashlib.blake2b("\0".join(words).encode("utf-8", "surrogatepass"), key=self._alias).digest()

    def has(self, key: str) -> bool:
        return key in self._tree["keys"]

    def rotate(self) -> str:
        """A new current epoch key; the old ones stay until `destroy`. Pseudonyms stay as they are. Returns its id."""
        fresh = _new_id()
        tree = self._tree | {"current": fresh, "keys": self._tree["keys"] | {fresh: _new_key()}}
        self._store(tree)
        return fresh

    def destroy(self, key: str) -> None:
        """Forget an old epoch key: what is sealed under it can never be looked up again."""
        assert key != self.current, "the current key is in use"
        self._store(self._tree | {"keys": {name: held for name, held in self._tree["keys"].items() if name != key}})

    def _store(self, tree: dict[str, Any]) -> None:
        _write(self.path, tree, may_replace=True)
        self._tree = tree
        self._epochs = {name: base64.b64decode(held["secret"]) for name, held in tree["keys"].items()}
        self._macs = {}

    def _epoch(self, key: str) -> bytes:
        held = self._epochs.get(key)
        if held is None:
            raise DataError("privacy.key_gone", where=str(self.path), given=key, known=listed(self.ids))
        return held


def _create(path: Path) -> None:
    first = _new_id()
    tree = {
        "format": FORMAT,
        "about": "danlu: keys of the privacy stage. Keep secret, keep apart from the data, keep a copy.",
        "index": _new_secret(),
        "alias": _new_secret(),
        "current": first,
        "keys": {first: _new_key()},
    }
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):  # another process was faster: its keys are as good
        _write(path, tree, may_replace=False)


def _write(path: Path, tree: dict[str, Any], *, may_replace: bool) -> None:
    """Atomic, and never for a moment readable by others."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")  # 0600 from the start
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(dump_json(tree) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if may_replace:
            Path(name).replace(path)
        else:
            os.link(name, path)  # fails where there is one
        sync_folder(path.parent)
    finally:
        Path(name).unlink(missing_ok=True)


def _new_key() -> dict[str, str]:
    return {"secret": _new_secret(), "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}


def _new_secret() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def _new_id() -> str:
    return "k" + secrets.token_hex(4)


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _seal(key: bytes, block: bytes) -> bytes:
    left, right = block[:8], block[8:]
    for step in range(_ROUNDS):
        left, right = right, _xor(left, _round(key, step, right))
    return left + right


def _unseal(key: bytes, block: bytes) -> bytes:
    left, right = block[:8], block[8:]
    for step in reversed(range(_ROUNDS)):
        left, right = _xor(right, _round(key, step, left)), left
    return left + right


def _round(key: bytes, step: int, half: bytes) -> bytes:
    return hashlib.blake2b(half, key=key, digest_size=8, person=bytes((step,))).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")
