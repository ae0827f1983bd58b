"""MLflow: a local SQLite store beside the runs unless an address is named. Figures, settings, reports; no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danlu.core.errors import RunError
from danlu.run.trackers.tracker import Point

EXPERIMENT, BATCH, LONGEST = "danlu", 1000, 6000
"""A batch of MLflow's holds a thousand figures, a setting so many characters."""


class MLflow:
    def __init__(self, place: str, run: str, folder: Path, known: Mapping[str, Any]) -> None:
        try:
            from mlflow.tracking import MlflowClient  # an extra
        except ImportError as error:
            raise RunError("track.missing", where="tracking.to", given="mlflow", package="danlu[track]") from error
        database = (folder.parent / "mlflow.db").resolve()
        self._client: Any = MlflowClient(tracking_uri=place or f"sqlite:///{database}")
        self._run = known.get("run_id") or self._create(run, folder)

    def _create(self, run: str, folder: Path) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        artifacts = (folder.parent / "mlflow-artifacts").resolve().as_uri()
        number = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT, artifacts)
        made = self._client.create_run(number, run_name=run, tags={"mlflow.source.name": "danlu", "danlu.run": run})
        return str(made.info.run_id)

    def settings(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        entries = [Param(key, value[:LONGEST]) for key, value in values.items()]
        for at in range(0, len(entries), 100):
            self._client.log_batch(self._run, params=entries[at : at + 100])

    def points(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        entries = [Metric(p.name, p.value, round(p.time_s * 1000), p.step) for p in points]
        for at in range(0, len(entries), BATCH):
            self._client.log_batch(self._run, metrics=entries[at : at + BATCH])

    def files(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self._client.log_artifact(self._run, str(path))

    def state(self) -> dict[str, Any]:
        return {"run_id": self._run}

    def close(self, *, is_over: bool) -> None:
        if is_over:
            self._client.set_terminated(self._run)
