"""One shard after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from danlu.data.flow.work import Task, Work


class Inline:
    def __init__(self, num_workers: int | None = None) -> None:
        """There is one worker, whatever is asked for: this process."""

    def get_ready(self) -> None:
        """Nothing is started beforehand."""

    def dismiss(self) -> None:
        """Nothing was started beforehand."""

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Task]:
        for task in tasks:
            work(task)
            yield task
