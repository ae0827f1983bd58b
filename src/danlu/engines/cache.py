"""Answers already paid for, one small file each, found again by the digest of the request. Never holds a key.

A run that stopped (Ctrl-C, cost cap, power) asks only what is missing when it starts again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from danlu.core.files import dump_json, write_bytes


class AnswerCache:
    """`folder/ab/abcdef….json`. A file that cannot be read is as good as absent: it is asked and written again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.json"

    def find(self, digest: str) -> dict[str, Any] | None:
        try:
            entry = orjson.loads(self.path(digest).read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return None
        return entry if isinstance(entry, dict) and isinstance(entry.get("text"), str) else None

    def keep(self, digest: str, entry: dict[str, Any]) -> None:
        write_bytes(self.path(digest), dump_json(entry, indent=False))
