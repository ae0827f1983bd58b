"""Which shards there are: every file one, large files of a JSON value per line several. Never two files in one.

A shard is named by what it reads: the bytes' digest, where they stand and how they are to be read. Cuts fall on fixed
places of a file, so rows added at its end leave the shards before them as they are.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from danlu.core.errors import DataError
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.finding import Found, SourceSpec, find_files
from danlu.data.kinds import kind_of_file
from danlu.data.ledger import Entry
from danlu.data.opening import Source, Span, open_source
from danlu.data.sources.json import holds_a_value_per_line

SHARD_BYTES = 8 << 20
"""Where a file of lines is cut: after the first line's end behind each multiple of this. A worker does one in half a
second, which is as long as another may stand idle at the end."""
_BLOCK_BYTES = 1 << 20
_BLOCKS_WAITING = 4
_LINE_END = 0x0A


@dataclass(frozen=True, slots=True)
class Shard:
    """One file, or whole lines of one. `digest` is the sha256 of its own bytes, `document` of the whole file."""

    found: Found
    digest: str
    document: str
    num_bytes: int

    def key(self) -> dict[str, Any]:
        """JSON that names the shard: what it reads and how, not when or on which machine."""
        spec, span = self.found.spec, self.found.span
        return {
            "file": self.found.name,
            "digest": self.digest,
            "span": [span.start, span.line] if span else None,
            "format": spec.format,
            "columns": dict(spec.columns) if spec.columns else None,
        }


@dataclass(frozen=True, slots=True)
class File:
    """One input file as a manifest names it."""

    name: str
    digest: str
    num_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {"file": self.name, "sha256": self.digest, "bytes": self.num_bytes}


@dataclass(frozen=True, slots=True)
class Plan:
    """All shards in the order of the sources, and the files they come from."""

    shards: tuple[Shard, ...]
    files: tuple[File, ...]
    left_out: tuple[Entry, ...] = ()
    """What lies below the folders and is no data: remarks for the ledger."""

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)


def plan_shards(
    specs: Sequence[SourceSpec | Path | str],
    *,
    shard_bytes: int = SHARD_BYTES,
    expect: Callable[[Sequence[Found]], None] | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Find the files, digest them, cut the large ones. `expect` is told of the files before any is opened. DataError
    for a path that does not exist."""
    progress = progress or Silent()
    left_out: list[Entry] = []
    found = find_files(specs, left_out)
    if expect is not None:
        expect(found)
    shards: list[Shard] = []
    files: list[File] = []
    progress.start(say("flow.reading"), len(found))
    for one in found:
        own = _shards_of(one, shard_bytes)
        shards += own
        files.append(File(one.name, own[0].document, sum(shard.num_bytes for shard in own)))
        progress.advance(1, file=one.name)
    progress.finish()
    return Plan(tuple(shards), tuple(files), tuple(left_out))


def _shards_of(found: Found, shard_bytes: int) -> list[Shard]:
    try:
        with found.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= shard_bytes or not _is_cut(found):
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                return [Shard(found, digest, digest, size)]
    except OSError:  # refused by name when it is read
        return [Shard(found, "", "", 0)]
    return _cut(found, shard_bytes)


def _is_cut(found: Found) -> bool:
    """Only plain files whose lines mean the same wherever reading begins."""
    try:
        source: Source = open_source(found.path, found.name)
    except DataError:
        return False
    if source.compression is not None or source.decoder.wide or b"\n" not in source.head:
        return False
    return kind_of_file(source).reader == "json" and holds_a_value_per_line(source)


def _cut(found: Found, shard_bytes: int) -> list[Shard]:
    """One pass over the file: digests of the whole and of each part, and the number of each part's first line. Digests
    are nearly all of the work, so that of the whole is made beside."""
    whole, part = hashlib.sha256(), hashlib.sha256()
    spans: list[tuple[Span, str]] = []
    start, line, position, num_lines = 0, 1, 0, 0
    rooms = itertools.cycle([memoryview(bytearray(_BLOCK_BYTES)) for _ in range(_BLOCKS_WAITING + 1)])
    with found.path.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as beside:
        waiting: deque[Future[None]] = deque()
        while size := file.readinto(room := next(rooms)):
            block = room[:size]
            if len(waiting) == _BLOCKS_WAITING:  # so the room that comes next is free again
                waiting.popleft().result()
            waiting.append(beside.submit(whole.update, block))
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == _LINE_END) + 1
            begin = 0
            while position + size > (goal := start + shard_bytes - start % shard_bytes):
                first = np.searchsorted(ends, max(begin, goal - position), "right")
                if first == len(ends):
                    break
                end = int(ends[first])
                part.update(block[begin:end])
                num_lines += int(first + 1 - np.searchsorted(ends, begin, "right"))
                spans.append((Span(start, position + end, line), part.hexdigest()))
                start, line, begin, part = position + end, line + num_lines, end, hashlib.sha256()
                num_lines = 0
            part.update(block[begin:])
            num_lines += len(ends) - int(np.searchsorted(ends, begin, "right"))
            position += size
    if position > start:
        spans.append((Span(start, position, line), part.hexdigest()))
    document = whole.hexdigest()
    return [Shard(replace(found, span=span), digest, document, span.end - span.start) for span, digest in spans]
