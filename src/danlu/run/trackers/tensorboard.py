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
            from tensorboard.summary.writer.event_file_writer import EventFileWriter  # an extra
        except ImportError as error:
            raise RunError("track.missing", where="tracking.to", given="tensorboard", package="danlu[track]") from error
        self._place, self._folder = place, place or str(folder / "tensorboard")
        self._writer: Any = EventFileWriter(self._folder)

    def settings(self, values: Mapping[str, str]) -> None:
        """None: TensorBoard has no place for them that others read."""

    def points(self, points: Sequence[Point]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for point in points:
            value = Summary.Value(tag=point.name, simple_value=point.value)
            self._writer.add_event(Event(wall_time=point.time_s, step=point.step, summary=Summary(value=[value])))

    def files(self, paths: Sequence[Path]) -> None:
        """None."""

    def state(self) -> dict[str, Any]:
        return {"place": self._place}

    def look(self) -> str:
        return f"tensorboard --logdir {shlex.quote(self._folder)}"

    def close(self, *, is_over: bool) -> None:
        self._writer.close()
