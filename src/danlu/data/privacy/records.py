"""The record of what was found where and what was done: HMACs, never values. One JSON object a line.

A finding: {sample, file, line, text, start, end, type, detector, score, level, action, mac, key}. A sample made of
others: {sample, type: "derived", parents}. `mac` is sealed under the epoch key `key` (keys.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from danlu.core.errors import DataError
from danlu.core.files import write_bytes

Record: TypeAlias = dict[str, Any]
FOLDER = ("privacy", "records")
"""Where a run keeps them."""


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write one shard's records, atomically; no file for none. Returns how many."""
    lines = [orjson.dumps(record) for record in records]
    if lines:
        write_bytes(path, b"\n".join(lines) + b"\n")
    else:
        path.unlink(missing_ok=True)
    return len(lines)


def read_records(folder: Path, *, name: str = "*.jsonl") -> Iterator[Record]:
    """All records of a folder, files by name."""
    for path in sorted(folder.glob(name)):
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise DataError("privacy.bad_record", where=f"{path}:{number}") from error
