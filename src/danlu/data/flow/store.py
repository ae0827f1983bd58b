"""Shards on disk, each in a folder named by the digest of all that made it: there whole, or not at all.

    <store>/shards/ab/abcd…/shard.json          what was told of the shard; written last
                           /0000/rows.arrow     rows of piece 0
                           /0000/columns.bin    its columns (arrays.py)
                           /0000/refused.jsonl  rows the reader or a cleaner refused
                           /0000/records.jsonl  what privacy put on record
    <store>/fresh/<pid>-…/                      shards being written

A shard is never changed: shard.json holds a digest of every file, which is checked once per process before anything of
the shard is believed that was not written here. What is damaged counts as missing, and is made anew. What no run
counts on any more is removed by `prune`.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from danlu.core.errors import DataError
from danlu.core.files import dump_json, read_json, sha256_file, sha256_json
from danlu.data.flow.arrays import open_arrays, write_arrays
from danlu.data.flow.batches import read_marks, read_names, read_rows, to_batch, write_batch
from danlu.data.flow.marks import Mark, Passed
from danlu.data.flow.passing import Passing, ShardFacts
from danlu.data.flow.piece import Piece, Row
from danlu.data.flow.plan import Shard
from danlu.data.ledger import Entry

FORMAT = 5
Stamps: TypeAlias = tuple[tuple[int, int, int], ...]
"""(inode, size, time of change) of each file of a shard."""
_SEEN: dict[str, Stamps] = {}
"""Shards whose bytes this process has checked, or made: folder to its stamps then."""
_NUM_READERS = 4
_T = TypeVar("_T")


def shard_key(shard: Shard, passing_digest: str) -> str:
    """Digest of the source's bytes, how they are read, and every stage: the shard's name."""
    return sha256_json({"format": FORMAT, "shard": shard.key(), "passing": passing_digest})


def passing_digest(passing: Passing) -> str:
    return sha256_json(passing.key())


@dataclass(slots=True)
class StoredPiece:
    """A piece in its folder, opened as far as it is asked for."""

    folder: Path
    size: int
    _columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    @property
    def columns(self) -> Mapping[str, npt.NDArray[Any]]:
        """Memory-mapped. DataError where the piece has been removed."""
        if not self._columns:
            try:
                self._columns = open_arrays(self.folder / "columns.bin")
            except DataError:
                raise
            except FileNotFoundError as error:
                raise DataError("flow.shard_gone", where=str(self.folder)) from error
            except (ValueError, KeyError, TypeError, OSError) as error:
                raise DataError("flow.shard_damaged", where=str(self.folder)) from error
        return self._columns

    @property
    def refused(self) -> list[Entry]:
        return [Entry(**value) for value in _lines(self.folder / "refused.jsonl")]

    @property
    def records(self) -> list[Mapping[str, Any]]:
        return list(_lines(self.folder / "records.jsonl"))

    def __len__(self) -> int:
        return self.size

    def rows(self, wanted: npt.NDArray[np.bool_] | None = None) -> Iterator[tuple[int, Row]]:
        return _plainly(self.folder, read_rows(self.folder / "rows.arrow", wanted))

    def names(self) -> Iterator[tuple[str, str, int]]:
        return _plainly(self.folder, read_names(self.folder / "rows.arrow"))

    def marks(self, wanted: npt.NDArray[np.int64]) -> list[tuple[Mark, ...]]:
        if not len(wanted):
            return []
        return list(_plainly(self.folder, read_marks(self.folder / "rows.arrow", wanted)))


@dataclass(frozen=True)
class StoredShard:
    """A finished shard."""

    key: str
    folder: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = read_json(self.folder / "shard.json")
        return record

    @property
    def digest(self) -> str:
        """Of the ids of its rows, in order."""
        return str(self.record["digest"])

    @property
    def facts(self) -> ShardFacts:
        funnel = [Passed.from_json(one) for one in self.record["funnel"]]
        remarks = [Entry(**one) for one in self.record["remarks"]]
        return ShardFacts(funnel, remarks, self.record["counts"], self.record["num_read"])

    @property
    def pieces(self) -> list[StoredPiece]:
        return [StoredPiece(self.folder / f"{number:04}", size) for number, size in enumerate(self.record["sizes"])]


@dataclass(frozen=True, slots=True)
class Store:
    """The folder of shards; several runs, and several processes, may use it at once."""

    folder: Path

    def find(self, key: str) -> StoredShard | None:
        """The finished shard; None too where a file is missing or not what was written, byte for byte."""
        folder = self._place(key)
        try:
            shard = StoredShard(key, folder)
            if not _is_whole(shard):
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return shard

    def is_damaged(self, key: str) -> bool:
        """Whether the shard was finished once and cannot be believed any more."""
        return (self._place(key) / "shard.json").is_file() and self.find(key) is None

    def find_all(self, keys: Iterable[str]) -> dict[str, StoredShard]:
        """Those of them that are there. Several are looked through at once: digests are most of it."""
        names = list(dict.fromkeys(keys))
        with ThreadPoolExecutor(_NUM_READERS) as readers:
            return {key: shard for key, shard in zip(names, readers.map(self.find, names), strict=True) if shard}

    def write(self, key: str, pieces: Iterable[Piece], facts: ShardFacts) -> Stamps:
        """Write the pieces as they come; `facts` is read after the last. Who comes second to a key throws away his.
        What is given back makes `believe` trust the shard without reading it again."""
        fresh = self._fresh()
        try:
            sizes: list[int] = []
            files: dict[str, int] = {}
            digests: dict[str, str] = {}
            digest = hashlib.sha256()
            for number, piece in enumerate(pieces):
                for name, written in _write_piece(fresh / f"{number:04}", piece).items():
                    files[f"{number:04}/{name}"], digests[f"{number:04}/{name}"] = written
                sizes.append(len(piece))
                digest.update(b"".join([row.id.encode() + b"\n" for row in piece.kept]))
            record = {
                "format": FORMAT, "files": files, "digests": digests, "key": key,
                "sizes": sizes, "digest": digest.hexdigest(),
                "remarks": [asdict(entry) for entry in facts.remarks], "counts": facts.counts,
                "num_read": facts.num_read, "funnel": [one.to_json() for one in facts.funnel],
            }  # fmt: skip
            (fresh / "shard.json").write_bytes(dump_json(record | {"seal": _seal_of(record)}) + b"\n")
            stamps = _stamps_of(fresh, files)
            place = self._place(key)
            place.parent.mkdir(parents=True, exist_ok=True)
            if self.find(key) is None:
                shutil.rmtree(place, ignore_errors=True)  # damaged
            try:
                fresh.rename(place)
            except OSError:
                other = self.find(key)
                if other is None:  # not somebody else's equal shard, but a disk that refuses
                    raise
                stamps = _stamps_of(place, other.record["files"])
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        self.believe(key, stamps)
        return stamps

    def believe(self, key: str, stamps: Stamps) -> None:
        """This process, or a worker of its own, wrote the shard or checked every byte of it when its files were so."""
        _SEEN[str(self._place(key))] = stamps

    def prune(self, keys: Collection[str]) -> int:
        """Remove shards other than these; how many were removed."""
        for path in (self.folder / "fresh").glob("*"):
            if not _is_alive(path.name):
                shutil.rmtree(path, ignore_errors=True)
        num = 0
        for place in (self.folder / "shards").glob("*/*"):
            if place.name not in keys:
                (place / "shard.json").unlink(missing_ok=True)  # half removed is not there
                shutil.rmtree(place, ignore_errors=True)
                num += 1
        return num

    def _place(self, key: str) -> Path:
        return self.folder / "shards" / key[:2] / key

    def _fresh(self) -> Path:
        parent = self.folder / "fresh"
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=parent, prefix=f"{os.getpid()}-"))


def _is_whole(shard: StoredShard) -> bool:
    """Sizes first, for they cost nothing; then every byte, unless the files are those that were looked at before."""
    record = shard.record
    if any((shard.folder / name).stat().st_size != size for name, size in record["files"].items()):
        return False
    stamps = _stamps_of(shard.folder, record["files"])
    if _SEEN.get(str(shard.folder)) == stamps:
        return True
    if record["seal"] != _seal_of(record) or record["files"].keys() != record["digests"].keys():
        return False
    if any(sha256_file(shard.folder / name) != digest for name, digest in record["digests"].items()):
        return False
    _SEEN[str(shard.folder)] = stamps
    return True


def _stamps_of(folder: Path, names: Iterable[str]) -> Stamps:
    stats = ((folder / name).stat() for name in ("shard.json", *names))
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


def _seal_of(facts: Mapping[str, Any]) -> str:
    return sha256_json({name: value for name, value in facts.items() if name != "seal"})


def _plainly(folder: Path, rows: Iterator[_T]) -> Iterator[_T]:
    """The rows; a file that went or broke since it was looked at is told as such."""
    try:
        yield from rows
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError("flow.shard_gone", where=str(folder)) from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError("flow.shard_damaged", where=str(folder)) from error


class _Written(io.RawIOBase):
    """A file that is digested on its way to the disk. Not made durable: what a power cut takes is missed by `find` and
    made again."""

    def __init__(self, path: Path) -> None:
        self.file, self.size, self.sha256 = path.open("wb", buffering=0), 0, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        self.sha256.update(view)
        self.size += len(view)
        while len(view):
            view = view[self.file.write(view) :]
        return len(content)

    def close(self) -> None:
        self.file.close()
        super().close()

    @property
    def told(self) -> tuple[int, str]:
        """Bytes, and their digest."""
        return self.size, self.sha256.hexdigest()


def _write_piece(folder: Path, piece: Piece) -> dict[str, tuple[int, str]]:
    """The size and digest of each file."""
    folder.mkdir()
    refused = [dump_json(asdict(entry), indent=False) + b"\n" for entry in piece.refused]
    records = [orjson.dumps(record) + b"\n" for record in piece.records]
    files: dict[str, Callable[[_Written], object]] = {
        "rows.arrow": lambda file: write_batch(file, to_batch(piece)),
        "columns.bin": lambda file: write_arrays(file, piece.columns),
        "refused.jsonl": lambda file: file.write(b"".join(refused)),
        "records.jsonl": lambda file: file.write(b"".join(records)),
    }
    told = {}
    for name, write in files.items():
        with _Written(folder / name) as file:
            write(file)
        told[name] = file.told
    return told


def _lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)


def _is_alive(name: str) -> bool:
    """Whether the process that a file is named after still runs here."""
    number = name.partition("-")[0]
    if not number.isdigit():
        return False
    if os.name == "nt":  # there, asking would end the process that is asked after
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's process
        return True
    return True
