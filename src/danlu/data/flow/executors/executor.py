"""The contract of this shelf: an executor gets tasks done, in any order and any number at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from danlu.data.flow.work import Task, Work


class Executor(Protocol):
    """`num_workers`: most tasks under way at once; None leaves it to the executor."""

    def __init__(self, num_workers: int | None = None) -> None: ...

    def get_ready(self) -> None:
        """There will be work soon. Whoever calls this calls `dismiss` in the end, whether or not there was any."""
        ...

    def dismiss(self) -> None:
        """There will be none any more."""
        ...

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Task]:
        """Do `work(task)` for every task and give each back when it is done.

        The first fault of a task ends the whole: DanluErrors as they are. Closing the iterator early stops all workers.
        """
        ...
