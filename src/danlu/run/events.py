"""events.jsonl: one JSON object a line, appended as things happen. A line cut off by a crash is ignored on reading.

Kinds and their facts are documented in docs/reference.md; readers must ignore kinds and facts they do not know.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson


class Events:
    """Append and read a run's events."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, kind: str, **facts: Any) -> None:
        """One line in one write, so that two writers do not interleave."""
        line = orjson.dumps(
            {"time": time.time(), "event": kind} | facts, option=orjson.OPT_SERIALIZE_NUMPY, default=str
        )
        with self.path.open("ab") as file:
            if file.tell() and not _ends_with_newline(self.path):
                line = b"\n" + line  # after a crash in mid-line the torn line stays alone
            file.write(line + b"\n")

    def read(self, kind: str | None = None) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for line in file:
                try:
                    event = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
                if isinstance(event, dict) and (kind is None or event.get("event") == kind):
                    yield event


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
