"""Files that are never half-written: atomic writes, digests, free space. Not a storage abstraction."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

_UMASK = os.umask(0o077)  # what the user keeps from others; asked for by setting it, which threads would notice later
os.umask(_UMASK)


def write_bytes(path: Path, content: bytes) -> None:
    """Write so that after a crash at any moment `path` holds the old content or the new, never a part."""
    with writing(path) as file:
        file.write(content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """The same for content that comes bit by bit: it takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644 & ~_UMASK)  # `mkstemp` makes it for its owner alone
        Path(name).replace(path)
        sync_folder(path.parent)
    finally:
        Path(name).unlink(missing_ok=True)  # gone where all went well


def remove_unfinished(folder: Path) -> None:
    """Remove what killed writers left in a folder that only the caller writes to."""
    for left in folder.glob(".*.tmp"):
        if left.is_file():
            left.unlink()


def printable(text: str) -> str:
    """`text` with half surrogates spelt out: no file and no terminal takes them, and names of files may hold some."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def dump_json(value: Any, *, indent: bool = True) -> bytes:
    """Canonical JSON: sorted keys, so equal values have equal bytes and digests."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY | (orjson.OPT_INDENT_2 if indent else 0)
    return orjson.dumps(value, option=options, default=str)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, dump_json(value) + b"\n")


def read_json(path: Path) -> Any:
    return orjson.loads(path.read_bytes())


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty sibling folder that takes the place of `path` when the block ends well, else vanishes.

    One writer at a time: what a killed one left beside `path`, perhaps gigabytes, is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        fresh.chmod(0o755 & ~_UMASK)
        yield fresh
        for file in fresh.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        old = path.parent / f".{path.name}.old"
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.replace(old)
        fresh.replace(path)
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # gone where all went well


def sync_folder(path: Path) -> None:
    """Make a rename durable; folders cannot be opened on Windows, where the rename itself is the best there is."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sha256_json(value: Any) -> str:
    """Digest of a JSON value, independent of key order."""
    return sha256_bytes(dump_json(value, indent=False))


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(path: Path) -> int:
    """Free disk space where `path` is or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def size_text(num_bytes: int) -> str:
    """1,234,567,890 as 1.15 GiB."""
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
