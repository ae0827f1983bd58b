"""Work that numpy or a compiled loop does without holding the interpreter, on all cores that this process may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Job = TypeVar("_Job")
_Found = TypeVar("_Found")
_MOST = 8
"""Threads: what they do is bound by memory, and each holds some of its own."""


def num_threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST)


def threaded(work: Callable[[_Job], _Found], jobs: Iterable[_Job]) -> Iterator[_Found]:
    """What each job comes to, in the order of the jobs."""
    with ThreadPoolExecutor(num_threads()) as pool:
        yield from pool.map(work, jobs)
