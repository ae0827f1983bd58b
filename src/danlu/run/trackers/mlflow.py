"""MLflow: a local SQLite store beside the runs unless an address is named. Figures, settings, reports; no weights."""

from __future__ import annotations

import shlex
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danlu.core.errors import RunError
from danlu.run.trackers.tracker import Point

EXPERIMENT, BATCH, LONGEST = "danlu", 1000, 6000
"""A batch of MLflow's holds a thousand figures, a setting so many characters."""

KNOCK_S = 5.0


class MLflow:
    def __init__(self, place: str, run: str, folder: Path, known: Mapping[str, Any]) -> None:
        try:
            import mlflow.tracking  # an extra
        except ImportError as error:
            raise RunError("track.missing", where="tracking.to", given="mlflow", package="danlu[track]") from error
        _knock(place)
        self._place = place
        self._address = place or f"sqlite:///{(folder.parent / 'mlflow.db').resolve()}"
        self._mlflow: Any = mlflow
        self._client: Any = mlflow.tracking.MlflowClient(tracking_uri=self._address)
        known_run = str(known.get("run_id", ""))
        self._run = known_run if known_run and self._is_there(known_run) else self._create(run, folder)

    def _is_there(self, run: str) -> bool:
        """Runs are copied without the database beside them, and databases are deleted."""
        try:
            return bool(self._client.get_run(run).info.lifecycle_stage == "active")
        except self._mlflow.exceptions.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _create(self, run: str, folder: Path) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        artifacts = (folder.parent / "mlflow-artifacts").resolve().as_uri()
        number = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT, artifacts)
        made = self._client.create_run(number, run_name=run, tags={"mlflow.source.name": "danlu", "danlu.run": run})
        return str(made.info.run_id)

    def settings(self, values: Mapping[str, str]) -> None:
        entries = [self._mlflow.entities.Param(key, value[:LONGEST]) for key, value in values.items()]
        for at in range(0, len(entries), 100):
            self._client.log_batch(self._run, params=entries[at : at + 100])

    def points(self, points: Sequence[Point]) -> None:
        entries = [self._mlflow.entities.Metric(p.name, p.value, round(p.time_s * 1000), p.step) for p in points]
        for at in range(0, len(entries), BATCH):
            self._client.log_batch(self._run, metrics=entries[at : at + BATCH])

    def files(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self._client.log_artifact(self._run, str(path))

    def state(self) -> dict[str, Any]:
        return {"run_id": self._run, "place": self._place}

    def look(self) -> str:
        return "" if self._place else f"mlflow ui --backend-store-uri {shlex.quote(self._address)}"

    def close(self, *, is_over: bool) -> None:
        if is_over:
            self._client.set_terminated(self._run)


def _knock(place: str) -> None:
    """OSError where nobody listens: MLflow itself would try again for minutes before it says so."""
    url = urllib.parse.urlsplit(place)
    if url.scheme not in ("http", "https") or not url.hostname:
        return
    if url.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(url.hostname):
        return  # reached through another machine
    socket.create_connection((url.hostname, url.port or {"http": 80, "https": 443}[url.scheme]), KNOCK_S).close()
