"""The contract of a tracker: figures in, at their step and time; the same ones twice change nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Point:
    """One figure: `step` counts from 1 within its stage, `time_s` is when the run's own event was written."""

    name: str
    value: float
    step: int
    time_s: float


class Tracker(Protocol):
    """Opened for one run. `place` is where the tracker keeps what it keeps: a folder, or an address."""

    def __init__(self, place: str, run: str, folder: Path, known: Mapping[str, Any]) -> None:
        """`known` is what `state` gave when this run was mirrored last; empty the first time."""
        ...

    def settings(self, values: Mapping[str, str]) -> None:
        """What the run was told to do; written once."""
        ...

    def points(self, points: Sequence[Point]) -> None: ...

    def files(self, paths: Sequence[Path]) -> None:
        """Reports worth seeing beside the figures."""
        ...

    def state(self) -> dict[str, Any]:
        """JSON by which the same run is found again."""
        ...

    def look(self) -> str:
        """The command with which people see it; "" where they open an address of their own."""
        ...

    def close(self, *, is_over: bool) -> None: ...
