"""Brings run directories of older formats up to date. One function per step; steps are never edited once released."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from danlu.core.errors import RunError
from danlu.core.files import write_json
from danlu.run.kept import read_kept

FORMAT = 1
STEPS: dict[int, Callable[[Path], None]] = {}
"""Format n to the function that makes n + 1 of it."""


def migrate(folder: Path) -> None:
    """Migrate in place, one atomic step at a time; raises RunError when the run is of a newer danlu."""
    record = read_kept(folder / "run.json")
    found = record.get("format") if isinstance(record, dict) else None
    if not isinstance(found, int) or found > FORMAT or (found < FORMAT and found not in STEPS):
        raise RunError("run.foreign_format", where=str(folder), given=found, expected=FORMAT)
    while found < FORMAT:
        STEPS[found](folder)
        found += 1
        write_json(folder / "run.json", record | {"format": found})
