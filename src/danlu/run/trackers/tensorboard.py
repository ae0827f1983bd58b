"""TensorBoard: event files under the run's folder `tensorboard/`, written without torch or TensorFlow."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danlu.core.errors import RunError
from danlu.run.trackers.tracker import Point


class TensorBoard:
    def __init__(self, place: str, run: str, folder: Path, known: Mapping[str, Any]) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2  # an extra
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise RunError("track.missing", where="tracking.to", given="tensorboard", package="danlu[track]") from error
        self._place, self._folder = place, place or str(folder / "tensorboard")
        self._event: Any = event_pb2.Event
        self._summary: Any = summary_pb2.Summary
        self._writer: Any = EventFileWriter(self._folder)

    def settings(self, values: Mapping[str, str]) -> None:
        """None: TensorBoard has no place for them that others read."""

    def points(self, points: Sequence[Point]) -> None:
        for point in points:
            value = self._summary.Value(tag=point.name, simple_value=point.value)
            summary = self._summary(value=[value])
            self._writer.add_event(self._event(wall_time=point.time_s, step=point.step, summary=summary))

    def files(self, paths: Sequence[Path]) -> None:
        """None."""

    def state(self) -> dict[str, Any]:
        return {"place": self._place}

    def look(self) -> str:
        return f"tensorboard --logdir {shlex.quote(self._folder)}"

    def close(self, *, is_over: bool) -> None:
        self._writer.close()
