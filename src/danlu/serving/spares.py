"""Spare processes: one for each kind of engine whose start is mostly the loading of libraries, waiting with these
loaded until an engine dies. What takes it over has only the model left to load: a fifth of a second of CPU instead of
one and a half for small models (torch), which on a busy machine is the difference between one second and ten.

A spare holds no model, no secret and no file but its log. It takes memory (`Spare.memory_bytes`), so that a driver
names one only where it pays (`Command.spare`), and there is one for all replicas of the server. Where none is left, an
engine starts as it would without.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path

import orjson

from danlu.serving.drivers.driver import Command
from danlu.serving.spawning import signal_session, spawn

Process = asyncio.subprocess.Process


def order(argv: Sequence[str], log: Path) -> bytes:
    """The first line that a spare is told: which command it becomes, and where that prints to."""
    return orjson.dumps({"argv": [str(word) for word in argv], "log": str(log)}) + b"\n"


class Spare:
    """Of one kind of process. `keep` starts one where none waits, `take` gives it away."""

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        self.argv, self.log = tuple(argv), log
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._is_closed = False

    @property
    def pid(self) -> int:
        """0 where none waits."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    @property
    def memory_bytes(self) -> int:
        """What it alone takes: libraries' pages that engines have mapped as well do not count. 0 where nobody tells."""
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
            return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
        return 0

    async def keep(self) -> None:
        """Have one. It may be taken while it still loads: it reads its order when it is done. A machine that has no
        room for one does without."""
        async with self._turn:
            if self.pid or self._is_closed:
                return
            with contextlib.suppress(OSError):  # it stands in the log, and engines start without
                self._process = await spawn(self.argv, {}, self.log)

    def take(self) -> Process | None:
        """The one that waits, for good; None where there is none."""
        process, self._process = self._process, None
        return process if process is not None and process.returncode is None else None

    async def close(self) -> None:
        async with self._turn:
            self._is_closed = True
            if (process := self.take()) is None:
                return
            signal_session(process.pid, signal.SIGKILL)
            await process.wait()
            assert process.stdin is not None, "its input is a pipe"
            process.stdin.close()
            with contextlib.suppress(ConnectionError):
                await process.stdin.wait_closed()


class Spares:
    """All of a server's, by what they are."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.all: dict[tuple[str, ...], Spare] = {}

    def of(self, command: Command) -> Spare | None:
        """The one that this command's process may be made of; nothing is started yet."""
        if not command.spare:
            return None
        argv = tuple(command.spare)
        return self.all.setdefault(argv, Spare(argv, self.logs / f"spare-{len(self.all)}.log"))

    async def keep(self) -> None:
        for spare in list(self.all.values()):
            await spare.keep()

    async def close(self) -> None:
        await asyncio.gather(*(spare.close() for spare in self.all.values()))
