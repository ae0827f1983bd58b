"""Weights & Biases: offline unless `tracking.wandb` says online; what is kept lies under the run until it is synced."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from danlu.core.errors import RunError
from danlu.run.trackers.tracker import Point


class WandB:
    def __init__(self, place: str, run: str, folder: Path, known: Mapping[str, Any]) -> None:
        try:
            import wandb  # an extra
        except ImportError as error:
            raise RunError("track.missing", where="tracking.to", given="wandb", package="danlu[track]") from error
        keeps = folder / "wandb"
        keeps.mkdir(exist_ok=True)
        self._id, self._keeps = known.get("id") or run, keeps
        self._mode: Literal["online", "offline"] = "online" if place == "online" else "offline"
        settings = wandb.Settings(
            mode=self._mode, console="off", disable_git=True, disable_code=True,
            x_disable_meta=True, x_disable_stats=True, silent=True,
        )  # fmt: skip
        self._run: Any = wandb.init(
            project="danlu", id=self._id, name=run, dir=str(keeps), resume="allow", settings=settings
        )
        self._run.define_metric("*", step_metric="step")

    def settings(self, values: Mapping[str, str]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def points(self, points: Sequence[Point]) -> None:
        for step, group in groupby(points, key=lambda point: point.step):
            self._run.log({point.name: point.value for point in group} | {"step": step})

    def files(self, paths: Sequence[Path]) -> None:
        """None: reports hold questions and answers, and stay in the run."""

    def state(self) -> dict[str, Any]:
        return {"id": self._id, "place": self._mode}

    def look(self) -> str:
        return f"wandb sync {shlex.quote(str(self._keeps))}/wandb/offline-run-*" if self._mode == "offline" else ""

    def close(self, *, is_over: bool) -> None:
        self._run.finish()
