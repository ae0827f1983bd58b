"""The audit log: who did what to what, when and why. Append-only JSONL, each line hashed together with the one before.

A chain shows that a line was changed, taken out or put in. It does not show that somebody rewrote the whole chain, or
cut off its end: for that, heads are written to a file elsewhere (`anchor`), and `verify` checks the log against it.

A line torn by a crash stays where it is. The next writer ends it, and the entry `recovered` behind it holds its digest,
so that it can be told from a line that was tampered with.
"""

from __future__ import annotations

import contextlib
import datetime
import getpass
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import RunError
from danlu.core.files import dump_json, sha256_bytes, sha256_json, sync_folder
from danlu.run.lock import in_turn

NAME = "audit.jsonl"
START = "0" * 64
"""What stands for the hash before the first entry."""
RECOVERED = "recovered"
_TAIL_BYTES = 1 << 16
_THREADS = threading.Lock()


@dataclass(frozen=True, slots=True)
class Entry:
    """One act. `hash` covers everything else and `prev`, the hash of the entry before; `n` counts from 1."""

    n: int
    time: str
    actor: str
    action: str
    object: dict[str, Any]
    reason: str
    prev: str
    hash: str

    def to_json(self) -> dict[str, Any]:
        return {
            "n": self.n, "time": self.time, "actor": self.actor, "action": self.action, "object": self.object,
            "reason": self.reason, "prev": self.prev, "hash": self.hash,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at a line (0: with the log as a whole); `what` is a catalogue key of the room `audit`."""

    line: int
    what: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`torn`: lines that a crash cut off, each with what became of it. Whole means: no problems."""

    num_entries: int
    head: str
    problems: tuple[Problem, ...]
    torn: tuple[Problem, ...]
    num_anchors: int

    @property
    def is_whole(self) -> bool:
        return not self.problems


class AuditLog:
    """`AuditLog(runs / "audit.jsonl")`. Any number of processes and threads may append."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, action: str, object: dict[str, Any], *, reason: str = "", actor: str | None = None) -> Entry:
        """One more entry, on disk when this returns. `object` holds names and digests, never what was masked."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _THREADS, self._alone():
            is_new = not self.path.exists()
            with self.path.open("a+b") as file:
                last, torn = _tail(file)
                if torn:
                    file.write(b"\n")
                    if (whole := _entry(torn)) is not None and _follows(whole, last):
                        last = whole  # only its line end was missing
                    else:
                        facts = {"bytes": len(torn), "sha256": sha256_bytes(torn)}
                        last = _written(file, last, RECOVERED, facts, "", actor)
                entry = _written(file, last, action, object, reason, actor)
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                sync_folder(self.path.parent)
        return entry

    def entries(self) -> Iterator[Entry]:
        """Entries as they stand, broken lines left out; `verify` tells whether they can be believed."""
        return (entry for _, entry, _ in self._lines() if entry is not None)

    def newest(self) -> Iterator[Entry]:
        """The entries backwards. Who stops early has read no more of the log than that."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            at, rest = file.seek(0, os.SEEK_END), b""
            while at > 0:
                size = min(at, _TAIL_BYTES)
                at -= size
                file.seek(at)
                lines = (file.read(size) + rest).split(b"\n")
                rest = lines.pop(0) if at else b""  # its beginning may lie in the block before
                yield from (entry for line in reversed(lines) if (entry := _entry(line)) is not None)

    def head(self) -> Entry | None:
        """The last entry that is whole, read from the end."""
        return next(self.newest(), None)

    def anchor(self, elsewhere: Path) -> Entry:
        """Append the head to a file that others keep: another disk, a ticket, a mailbox. RunError for an empty log."""
        head = self.head()
        if head is None:
            raise RunError("audit.empty", where=str(self.path))
        write_heads(elsewhere, [(self.path.name, head.n, head.hash)])
        return head

    def verify(self, anchors: Path | None = None) -> Verdict:
        """Walk the whole chain, and hold it against the anchors where given."""
        problems: list[Problem] = []
        torn: list[Problem] = []
        hashes: dict[int, str] = {}
        head, count = START, 0
        broken: tuple[int, bytes] | None = None
        for number, entry, line in self._lines():
            if entry is None:
                if broken is not None:
                    problems.append(Problem(broken[0], "broken"))
                broken = (number, line)
                continue
            if broken is not None:
                found = torn if _explains(entry, broken[1]) else problems
                found.append(Problem(broken[0], "recovered" if found is torn else "broken"))
                broken = None
            if entry.prev != head or entry.n != count + 1:
                problems.append(Problem(number, "chain", {"n": entry.n, "expected": count + 1}))
            head, count = entry.hash, entry.n
            hashes[entry.n] = entry.hash
        if broken is not None:  # a last line without its end is a crash; with it, somebody's work
            found = torn if not self._ends_well() else problems
            found.append(Problem(broken[0], "torn" if found is torn else "broken"))
        known = read_heads(anchors) if anchors is not None else ()
        pinned = [(line, n, digest) for line, log, n, digest in known if log == self.path.name]
        problems += _against(pinned, hashes)
        num_heads = len({(n, digest) for _, n, digest in pinned})  # one head, however often it was written down
        return Verdict(len(hashes), head, tuple(problems), tuple(torn), num_heads)

    def _lines(self) -> Iterator[tuple[int, Entry | None, bytes]]:
        if self.path.exists():
            with self.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    yield number, _entry(line.removesuffix(b"\n")), line.removesuffix(b"\n")

    def _ends_well(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Hold the log's lock; wait for another process that holds it."""
        return in_turn(self.path.with_name(f".{self.path.name}.lock"))


def write_heads(elsewhere: Path, heads: Iterable[tuple[str, int, str]]) -> None:
    """Append heads, (log, n, hash), to an anchor file: on disk when this returns."""
    lines = [dump_json({"log": log, "n": n, "hash": digest, "time": now()}, indent=False) for log, n, digest in heads]
    elsewhere.parent.mkdir(parents=True, exist_ok=True)
    with elsewhere.open("ab") as file:
        file.write(b"".join(line + b"\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


def read_heads(path: Path) -> Iterator[tuple[int, str, int, str]]:
    """Line, log, n and hash of every head in an anchor file. RunError for a line that is none."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise RunError("audit.no_anchors", where=str(path)) from error
    for number, line in enumerate(lines, start=1):
        try:
            head = orjson.loads(line)
            found = number, str(head["log"]), int(head["n"]), str(head["hash"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise RunError("audit.bad_anchor", where=f"{path}:{number}") from error
        yield found


def facts_of(run: str, record: dict[str, Any]) -> dict[str, Any]:
    """What the log says of an act that finished: its record's digest tells what it left."""
    return {"run": run, "record": sha256_json(record), "inputs": record.get("inputs", "")}


def who() -> str:
    """The account that acts, as the operating system knows it."""
    if os.name == "nt":
        return getpass.getuser()
    import pwd  # not on Windows

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _written(
    file: Any, last: Entry | None, action: str, object: dict[str, Any], reason: str, actor: str | None
) -> Entry:
    n, prev = (last.n + 1, last.hash) if last is not None else (1, START)
    plain = {"n": n, "time": now(), "actor": actor or who(), "action": action, "object": object, "reason": reason}
    plain = orjson.loads(dump_json(plain, indent=False)) | {"prev": prev}  # as it will be read back
    entry = Entry(**plain, hash=_hash(plain))
    file.write(dump_json(entry.to_json(), indent=False) + b"\n")
    return entry


def _hash(plain: dict[str, Any]) -> str:
    return sha256_bytes(dump_json(plain, indent=False))


def _entry(line: bytes) -> Entry | None:
    """The entry of a line; None when it is broken or its hash does not fit."""
    try:
        tree = orjson.loads(line)
        claimed = tree.pop("hash")
        return Entry(**tree, hash=claimed) if _hash(tree) == claimed else None
    except (orjson.JSONDecodeError, TypeError, AttributeError, KeyError):
        return None


def _tail(file: Any) -> tuple[Entry | None, bytes]:
    """The last whole entry, and what stands behind the last line end."""
    size = file.seek(0, os.SEEK_END)
    block = _TAIL_BYTES
    while True:
        file.seek(max(0, size - block))
        lines = file.read().split(b"\n")
        torn = lines.pop()
        known = lines if block >= size else lines[1:]  # the first may be cut by the block
        for line in reversed(known):
            if (entry := _entry(line)) is not None:
                return entry, torn
        if block >= size:
            return None, torn
        block *= 4


def _follows(entry: Entry, last: Entry | None) -> bool:
    return entry.prev == (last.hash if last is not None else START)


def _explains(entry: Entry, line: bytes) -> bool:
    return entry.action == RECOVERED and entry.object == {"bytes": len(line), "sha256": sha256_bytes(line)}


def _against(pinned: Sequence[tuple[int, int, str]], hashes: dict[int, str]) -> list[Problem]:
    found = []
    for n, digest in dict.fromkeys((n, digest) for _, n, digest in pinned):
        if n not in hashes:
            found.append(Problem(0, "cut_off", {"n": n}))
        elif hashes[n] != digest:
            found.append(Problem(0, "rewritten", {"n": n}))
    return found


def now() -> str:
    """The time of an entry, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
