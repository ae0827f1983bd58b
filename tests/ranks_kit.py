"""Ranks of a test: processes forked from it, that meet by a file and speak through gloo."""

import multiprocessing
import traceback
import uuid
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from danlu.training.together import Together, join
from waiting_kit import PATIENCE_S

FORK = multiprocessing.get_context("fork")


def start(num_ranks: int, folder: Path, work: Callable[[Together], Any]) -> list[tuple[Any, Connection]]:
    """(process, where its result will be heard) of each rank."""
    meet = folder / f"store-{uuid.uuid4().hex}"
    started = []
    for rank in range(num_ranks):
        here, there = FORK.Pipe(duplex=False)
        child = FORK.Process(target=_be, args=(rank, num_ranks, meet, work, there), daemon=True)
        child.start()
        there.close()
        started.append((child, here))
    return started


def results(started: list[tuple[Any, Connection]]) -> list[Any]:
    """What each rank came to; an error it raised is its text."""
    found = []
    for child, here in started:
        assert here.poll(PATIENCE_S), "a rank does not answer"
        found.append(here.recv())
        child.join(PATIENCE_S)
    return found


def together(num_ranks: int, folder: Path, work: Callable[[Together], Any]) -> list[Any]:
    """`work` by so many ranks at once."""
    return results(start(num_ranks, folder, work))


def _be(rank: int, size: int, meet: Path, work: Callable[[Together], Any], there: Connection) -> None:
    try:
        with join("cpu", rank=rank, size=size, meet=meet) as ranks:
            result = work(ranks)
        there.send(result)
    except BaseException as error:
        traceback.print_exc()
        there.send(f"{type(error).__name__}: {error}")
