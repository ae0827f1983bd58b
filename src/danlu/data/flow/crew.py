"""Worker processes that are started before there is a plan: they load what rows will want while files are digested.

A matter of wall time alone. Nobody is started where the work will be done elsewhere, is little, or is mostly done: the
store holds shards already.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from types import TracebackType

from danlu.data.finding import Found
from danlu.data.flow.executors import EXECUTORS, Executor
from danlu.data.flow.store import Store

MUCH_BYTES = 64 << 20
"""Of input files, from which a second of loading, on a core that would stand idle, is gained and not wasted."""


class Crew:
    """Starts workers when it is told of files, and stops on leaving those that got no work."""

    def __init__(self, engine: str, num_workers: int | None, store: Store) -> None:
        self.engine, self.num_workers, self.store = engine, num_workers, store
        self.executor: Executor | None = None

    def expect(self, files: Sequence[Found]) -> None:
        """These are going to be read."""
        if self.engine not in ("auto", "local") or not importlib.util.find_spec("pyarrow"):
            return
        if any((self.store.folder / "shards").glob("*/*")):
            return
        if sum(one.path.stat().st_size for one in files if one.path.is_file()) >= MUCH_BYTES:
            self.executor = EXECUTORS.load("local", where="data.engine")(self.num_workers)
            self.executor.get_ready()

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.executor is not None:
            self.executor.dismiss()
