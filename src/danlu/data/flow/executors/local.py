"""Worker processes on this machine: fresh interpreters that get tasks through pipes and leave shards in the store.

They are no forks (threads of a forked parser would hang) and do not import the caller's main module, so a script
without an `if __name__ == "__main__"` may call `danlu.prepare`. A worker holds one piece of one shard at a time;
when this process is gone, its pipe ends and so does the worker.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler

from danlu.core.errors import DataError
from danlu.data.flow.store import Store
from danlu.data.flow.work import Task, Work


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(slots=True)
class _Pool:
    """What the threads of one run share."""

    store: Store
    waiting: queue.SimpleQueue[Task | None] = field(default_factory=queue.SimpleQueue)
    done: queue.SimpleQueue[Task | BaseException] = field(default_factory=queue.SimpleQueue)
    workers: list[_Worker] = field(default_factory=list)


class Local:
    def __init__(self, num_workers: int | None = None) -> None:
        self.num_workers = num_workers or num_cores()
        self._ready: list[_Worker] = []

    def get_ready(self) -> None:
        """Workers are started and load what every row will want, while this process looks through files."""
        if os.name != "nt":
            self._ready = [_Worker(is_early=True) for _ in range(self.num_workers)]

    def dismiss(self) -> None:
        while self._ready:
            self._ready.pop().stop()

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Task]:
        if os.name == "nt":  # pipes there are of another kind
            for task in tasks:
                work(task)
                yield task
            return
        num = min(self.num_workers, len(tasks))
        order = _packed(work)
        pool = _Pool(work.store)
        for task in sorted(tasks, key=lambda task: -task.shard.num_bytes):  # the longest first: none is left alone last
            pool.waiting.put(task)
        for _ in range(num):
            pool.waiting.put(None)
        try:
            for _ in range(num):
                worker = self._ready.pop() if self._ready else _Worker()
                pool.workers.append(worker)
                threading.Thread(target=worker.serve, args=(pool, order), daemon=True).start()
            for _ in tasks:
                result = pool.done.get()
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            for worker in pool.workers:
                worker.stop()


def _packed(work: Work) -> bytes:
    """As it goes to every worker. DataError where a plug-in of somebody else's cannot be sent."""
    try:
        return bytes(ForkingPickler.dumps(work))
    except Exception as error:  # a plug-in that cannot be packed says so as it pleases
        raise DataError("flow.not_sendable", where="data.engine", said=str(error)) from error


class _Worker:
    """One process, and what its thread here does with it."""

    def __init__(self, *, is_early: bool = False) -> None:
        """`is_early`: there is no work for it yet."""
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in `stop`
        self.child = subprocess.Popen(  # noqa: S603  words of ours
            [sys.executable, "-m", "danlu.data.flow.worker", *(["early"] if is_early else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
        )  # fmt: skip
        assert self.child.stdin and self.child.stdout, "both ends are pipes"
        self.orders = Connection(os.dup(self.child.stdin.fileno()), readable=False)
        self.answers = Connection(os.dup(self.child.stdout.fileno()), writable=False)
        self.child.stdin.close()
        self.child.stdout.close()

    def serve(self, pool: _Pool, work: bytes) -> None:
        """Hand out tasks until none is waiting, or one fails. `work` as `_packed` made it."""
        try:
            self.orders.send_bytes(work)
            while (task := pool.waiting.get()) is not None:
                self.orders.send(task)
                answer = self.answers.recv()
                if isinstance(answer, BaseException):
                    pool.done.put(answer)
                    return
                if answer is not None:
                    pool.store.believe(task.key, answer)
                pool.done.put(task)
        except (OSError, EOFError, ValueError):  # the worker is gone
            pool.done.put(self._lost())
        except BaseException as fault:  # raised where the results are awaited, which would otherwise be for ever
            pool.done.put(fault)

    def _lost(self) -> DataError:
        code = self.child.wait()
        said = ""
        with contextlib.suppress(OSError, ValueError):  # closed by `stop`
            self.errors.seek(0)
            said = self.errors.read()[-2000:].decode("utf-8", "replace").strip()
        return DataError(
            "flow.worker_lost", where="data.engine", code=code, said=said.splitlines()[-1] if said else "-"
        )

    def stop(self) -> None:
        self.child.kill()
        self.child.wait()
        for end in (self.orders, self.answers, self.errors):
            with contextlib.suppress(OSError):
                end.close()
