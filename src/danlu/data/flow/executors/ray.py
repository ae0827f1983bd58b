"""Ray Data: shards spread over the nodes of a Ray cluster, which must share the folder of the store.

Without a cluster to join (`ray.init` finds one by Ray's own rules), Ray is started on this machine and stopped again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from danlu.core import errors
from danlu.core.errors import DanluError, DataError
from danlu.data.flow.work import Task, Work


class Ray:
    def __init__(self, num_workers: int | None = None) -> None:
        self.num_workers = num_workers

    def get_ready(self) -> None:
        """Nothing is started beforehand."""

    def dismiss(self) -> None:
        """Nothing was started beforehand."""

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Task]:
        try:
            import ray.data  # lazy: only recipes with `engine: ray` need it
        except ImportError as error:
            raise DataError("flow.needs_package", engine="ray", package="ray", extra="scale") from error
        started = not ray.is_initialized()
        if started:
            ray.init(
                num_cpus=self.num_workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
            )
        try:
            yield from self._spread(ray, work, tasks)
        finally:
            if started:
                ray.shutdown()

    def _spread(self, ray: Any, work: Work, tasks: Sequence[Task]) -> Iterator[Task]:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        numbers = [{"number": number} for number in range(len(tasks))]
        given = ray.put((work, list(tasks)))

        def passed(row: dict[str, Any]) -> dict[str, Any]:
            """On some node. Errors come back as values: Ray would wrap them into its own."""
            done, all_tasks = ray.get(given)
            try:
                done(all_tasks[row["number"]])
            except DanluError as error:
                told = [type(error).__name__, error.key, error.where, error.values]
                return {"number": row["number"], "fault": orjson.dumps(told, default=str).decode()}
            return {"number": row["number"], "fault": ""}

        shards = ray.data.from_items(numbers, override_num_blocks=len(tasks)).map(passed)
        for row in shards.iter_rows():
            if row["fault"]:
                kind, key, where, values = orjson.loads(row["fault"])
                raise getattr(errors, kind, DataError)(key, where=where, **values)
            yield tasks[int(row["number"])]
