"""A process for each of several cards that train one run together, started here and watched until all have ended.

A rank (`rank.py`) says through its standard output what progress there is, in the house's own messages; what it prints
goes to a file, of which the last words are told where one dies: then all end. Its standard input is a pipe whose end
means that we are gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal

import torch

from danlu.core.errors import DanluError, TrainingError
from danlu.core.progress import Progress
from danlu.pipeline.base import open_base
from danlu.pipeline.device import choose_device
from danlu.run.run import Run
from danlu.serving.spawning import last_words

INTERRUPTED = 130
AFTERWARDS_S = 2.0
"""When one rank has died the others fail too, soon: so long is waited to see who was first."""


def count_ranks(devices: int | Literal["all"], device: str) -> int:
    """How many processes train: one a card. On a CPU as many as were asked for, which is for trying it out."""
    if torch.device(choose_device(device)).type != "cuda":
        return 1 if devices == "all" else devices
    found = torch.cuda.device_count()
    if devices != "all" and devices > found:
        raise TrainingError("ranks.too_few", where="training.devices", given=devices, found=found)
    return found if devices == "all" else devices


def start_ranks(run: Run, num_ranks: int, *, device: str, progress: Progress) -> None:
    """Train a run's stages by so many processes. Raises what ended one of them; Ctrl-C leaves a checkpoint."""
    open_base(run.recipe.model, progress=progress)  # fetched once, not by each of them
    with _started(run, num_ranks, torch.device(choose_device(device)).type) as ranks:
        try:
            _listen(ranks, progress)
        except KeyboardInterrupt:
            for rank in ranks:  # they stop before the same step and save; a second Ctrl-C ends them as they are
                rank.send_signal(signal.SIGINT)
            _listen(ranks, progress)
            raise


class _Rank:
    """One process and what is heard of it."""

    def __init__(self, index: int, num_ranks: int, run: Path, device: str, folder: Path) -> None:
        self.index, self.size, self.log = index, num_ranks, folder / f"{index}.log"
        loopback = "lo" if sys.platform == "linux" else "lo0"  # nobody else's business
        place = {
            "RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": str(num_ranks),
            "GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback,
        }  # fmt: skip
        if torch.device(device).type == "cpu":
            place["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // num_ranks))
        meet = str(folder / "store")
        with self.log.open("wb") as file:
            self.child = subprocess.Popen(  # noqa: S603  words of ours
                [sys.executable, "-m", "danlu.pipeline.rank", str(run), "--device", device, "--meet", meet],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, start_new_session=True,
                env=os.environ | place,
            )  # fmt: skip
        assert self.child.stdout, "it is a pipe"
        self.words = Connection(os.dup(self.child.stdout.fileno()), writable=False)
        self.child.stdout.close()
        self.error: DanluError | None = None

    @property
    def died(self) -> bool:
        return self.child.returncode not in (None, 0, INTERRUPTED)

    def send_signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.child.send_signal(number)

    def end(self) -> None:
        self.child.kill()
        self.child.wait()
        self.words.close()
        if self.child.stdin:
            self.child.stdin.close()

    def account(self) -> DanluError:
        """Why it ended."""
        code, said = self.child.returncode, last_words(self.log) or "-"
        return self.error or TrainingError("ranks.died", rank=self.index, size=self.size, code=code, said=said)


@contextlib.contextmanager
def _started(run: Run, num_ranks: int, device: str) -> Iterator[list[_Rank]]:
    ranks: list[_Rank] = []
    with tempfile.TemporaryDirectory(prefix="danlu-ranks-") as folder:
        try:
            for index in range(num_ranks):
                ranks.append(_Rank(index, num_ranks, run.folder, device, Path(folder)))
            yield ranks
        finally:
            for rank in ranks:
                rank.end()


def _listen(ranks: list[_Rank], progress: Progress) -> None:
    """Pass on what the ranks say until all have ended, or one has failed."""
    speaking = {rank.words: rank for rank in ranks if rank.child.returncode is None}
    deadline = float("inf")
    while speaking and time.monotonic() < deadline:
        for words in wait(list(speaking), timeout=None if deadline == float("inf") else AFTERWARDS_S):
            rank = speaking[words]  # type: ignore[index]
            try:
                message = rank.words.recv()
            except (EOFError, OSError):
                rank.child.wait()
                del speaking[rank.words]
            else:
                _pass_on(message, rank, progress)
            if rank.error or rank.died:
                deadline = min(deadline, time.monotonic() + AFTERWARDS_S)
    if failed := [rank for rank in ranks if rank.error or rank.died]:
        raise min(failed, key=_how_far_from_the_cause).account()


def _how_far_from_the_cause(rank: _Rank) -> int:
    """Whoever says why, then whoever was killed, then whoever aborted: the others lost somebody to speak with, and of
    that gloo may abort too."""
    code = rank.child.returncode
    if rank.error:
        return 0
    return 3 if code is None or code >= 0 else 2 if code == -signal.SIGABRT else 1


def _pass_on(message: object, rank: _Rank, progress: Progress) -> None:
    if isinstance(message, DanluError):
        rank.error = message
    elif isinstance(message, tuple):
        name, args, facts = message
        getattr(progress, name)(*args, **facts)
