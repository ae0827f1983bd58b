"""A supervised process: engines and gateway workers alike.

It gets a session of its own (so that all it starts ends with it), its secret by standard input, an end of file there
and a signal when we die, a little of our environment, and a log file that cannot grow without bound. It counts as ready
when it answers, is asked again and again, and comes back after growing waits when it dies or falls silent.

    child = Child("engine-0", command, log=folder / "engine-0.log", is_ready=lambda: driver.is_ready(address, secret))
    await child.start()      # returns when it answers; EngineError with its last words if it does not
    ...
    await child.stop(drain=wait_for_running_streams)

`state` and `facts` are for routers: they leave a child alone that is not `ready`, and are told by `on_change`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from danlu.core.errors import EngineError
from danlu.serving.drivers.driver import Command
from danlu.serving.spares import Spare, order
from danlu.serving.spawning import last_words, signal_session, spawn

State = Literal["starting", "ready", "waiting", "stopping", "stopped", "failed"]
"""waiting: it died, and is started again in a moment. failed: it died too often, and is not."""
MAX_LOG_BYTES = 8 * 2**20
MOST_PAUSE_S = 0.25
"""Between two questions whether a starting one answers."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what may take. Seconds; counts."""

    ready_s: float = 600.0
    """From start to answering: weights are read."""
    order_s: float = 30.0
    """For a spare to take its order, which it may get while it still loads. It says so in the log, before all else."""
    unwell_s: float = 30.0
    """So long a ready one may be silent before it is killed and started again."""
    ask_every_s: float = 1.0
    drain_s: float = 30.0
    term_s: float = 10.0
    first_wait_s: float = 0.25
    """Before a second failure in a row is made good; the first is at once, and each further one waits twice as long."""
    most_wait_s: float = 30.0
    steady_s: float = 60.0
    """Who lived so long has mended: its failures are forgotten."""
    most_failures: int = 8
    """In a row; then it stays down and people are told."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a child; JSON once `asdict` has seen it."""

    name: str
    state: State
    pid: int
    num_starts: int
    num_failures: int
    since: float
    """When it came into this state, in seconds since 1970."""
    last_end: str = ""
    """How it last died, with its last words."""


class Child:
    """One process and its watch."""

    def __init__(
        self,
        name: str,
        command: Command,
        *,
        log: Path,
        is_ready: Callable[[], Awaitable[bool]],
        patience: Patience | None = None,
        pass_fds: Sequence[int] = (),
        death_signal: signal.Signals = signal.SIGKILL,
        on_change: Callable[[Child], None] | None = None,
        spare: Spare | None = None,
    ) -> None:
        """`death_signal` is what it gets from the kernel when we die (Linux). `on_change` must not wait. `spare`: what
        it is made of at a restart, where one waits."""
        self.name, self.command, self.log = name, command, log
        self._is_ready, self._patience = is_ready, patience or Patience()
        self._pass_fds, self._death_signal, self._on_change = tuple(pass_fds), death_signal, on_change
        self._spare = spare
        self._state: State = "stopped"
        self._since = time.time()
        self._process: asyncio.subprocess.Process | None = None
        self._num_starts = self._num_failures = 0
        self._last_end = ""
        self._log_before = -1
        """What the log held when a spare got its order; -1 where it is made of none."""
        self._ending = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] | None = None

    @property
    def state(self) -> State:
        return self._state

    @property
    def pid(self) -> int:
        """0 where nothing runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    @property
    def facts(self) -> Facts:
        return Facts(
            self.name, self._state, self.pid, self._num_starts, self._num_failures, self._since, self._last_end
        )

    async def start(self) -> None:
        """Returns when it answers. A first start that fails is not repeated: something is wrong that waiting does not
        mend, and EngineError tells its last words."""
        assert self._watch is None, "a child is started once"
        self._first = asyncio.get_running_loop().create_future()
        self._watch = asyncio.create_task(self._live(), name=f"child {self.name}")
        await asyncio.shield(self._first)

    async def stop(self, *, drain: Callable[[], Awaitable[None]] | None = None) -> None:
        """Drain, ask to end (SIGTERM), then end what is left (SIGKILL to its whole session)."""
        if self._watch is None:
            return
        self._ending.set()
        self._become("stopping")
        if drain is not None and self.pid:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(drain(), self._patience.drain_s)
        await self._watch
        await self._end()
        await self._reap()
        self._become("stopped")

    async def kill(self) -> None:
        """End the process at once, as a crash would: it is started again."""
        if self.pid:
            signal_session(self.pid, signal.SIGKILL)

    # ---- the watch

    async def _live(self) -> None:
        try:
            while not self._ending.is_set():
                began = time.monotonic()
                self._become("starting")
                await self._spawn()
                if await self._came_up():
                    self._become("ready")
                    self._settle_first(None)
                    await self._while_well()
                if self._ending.is_set():
                    return
                await self._reap()
                if not self._may_return(lived_s=time.monotonic() - began):
                    return
                await self._wait()
        finally:
            if not self._ending.is_set():  # else it may still drain: `stop` reaps
                await self._reap()
            self._settle_first(self._error())

    async def _spawn(self) -> None:
        """From the spare, where one waits: then all that is left of a start is the model itself."""
        told = self.command.secret.encode() + b"\n"
        self._process = self._spare.take() if self._spare is not None else None
        self._log_before = -1
        if self._process is not None:
            told = order(self.command.argv, self.log) + told
            self._log_before = self._log_bytes()
        else:
            try:
                self._process = await spawn(
                    self.command.argv, self.command.env, self.log, pass_fds=self._pass_fds,
                    death_signal=self._death_signal,
                )  # fmt: skip
            except OSError as fault:  # no such program; it stands in the log
                self._last_end = str(fault)
                return
        self._num_starts += 1
        assert self._process.stdin is not None, "its input is a pipe"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died already: found out below
            self._process.stdin.write(told)
            await self._process.stdin.drain()  # and it stays open as long as we live

    async def _came_up(self) -> bool:
        began, pause = time.monotonic(), 0.05
        deadline, order_by = began + self._patience.ready_s, began + self._patience.order_s
        while self.pid and not self._ending.is_set():
            if await self._answers():
                return True
            if time.monotonic() > deadline:
                self._last_end = f"no answer within {self._patience.ready_s:g} s: {last_words(self.log)}"
                return False
            if time.monotonic() > order_by and self._log_bytes() == self._log_before:
                self._last_end = f"its spare process took no order within {self._patience.order_s:g} s"
                return False
            await self._nap(pause)
            pause = min(pause * 1.5, MOST_PAUSE_S)
        return False

    async def _while_well(self) -> None:
        """Until it ends, or has been silent for too long."""
        heard = time.monotonic()
        while self.pid and not self._ending.is_set():
            await self._nap(self._patience.ask_every_s)
            self._bound_log()
            if await self._answers():
                heard = time.monotonic()
            elif time.monotonic() - heard > self._patience.unwell_s:
                self._last_end = f"silent for {self._patience.unwell_s:g} s"
                return

    async def _answers(self) -> bool:
        """A question that hangs is no answer."""
        try:
            return await asyncio.wait_for(self._is_ready(), max(1.0, self._patience.ask_every_s))
        except (TimeoutError, OSError, EngineError):
            return False

    async def _nap(self, seconds: float) -> None:
        """Sleep, but not longer than the process lives or we go on."""
        assert self._process is not None, "there is one to watch"
        waits = [asyncio.ensure_future(self._process.wait()), asyncio.ensure_future(self._ending.wait())]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _may_return(self, *, lived_s: float) -> bool:
        is_first = self._first is not None and not self._first.done()
        self._num_failures = 1 if lived_s > self._patience.steady_s else self._num_failures + 1
        if is_first or self._num_failures >= self._patience.most_failures:
            self._become("failed")
            return False
        return True

    async def _wait(self) -> None:
        self._become("waiting")
        if self._num_failures == 1:
            return
        wait_s = min(self._patience.first_wait_s * 2 ** (self._num_failures - 2), self._patience.most_wait_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), wait_s)

    # ---- its end

    async def _end(self) -> None:
        """SIGTERM to the process alone (it knows best how to end what it started), SIGKILL to its session."""
        if self.pid and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), self._patience.term_s)

    async def _reap(self) -> None:
        """Nothing of its session is left afterwards."""
        if self._process is None:
            return
        code = self._process.returncode
        signal_session(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        if code is not None and not self._ending.is_set():
            how = signal.Signals(-code).name if code < 0 else f"exit {code}"
            self._last_end = f"{how}: {last_words(self.log)}"
        if self._process.stdin is not None:
            self._process.stdin.close()
            with contextlib.suppress(ConnectionError):  # else a loop that ends now leaves its pipe to the collector
                await self._process.stdin.wait_closed()
        self._process = None

    def _become(self, state: State) -> None:
        if self._ending.is_set() and state not in ("stopping", "stopped"):
            return
        if state != self._state:
            self._state, self._since = state, time.time()
            if self._on_change is not None:
                self._on_change(self)

    def _settle_first(self, error: EngineError | None) -> None:
        if self._first is not None and not self._first.done():
            if error is None:
                self._first.set_result(None)
            else:
                self._first.set_exception(error)
                self._first.exception()  # heard of, also where who waited for it has thought better of it

    def _error(self) -> EngineError:
        return EngineError("drivers.no_start", where=self.name, said=self._last_end or "-", log=str(self.log))

    def _log_bytes(self) -> int:
        return self.log.stat().st_size if self.log.is_file() else 0

    def _bound_log(self) -> None:
        """A full log becomes `….1`, and begins anew: the child appends, so its next line is the first."""
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > MAX_LOG_BYTES:
                shutil.copyfile(self.log, self.log.with_name(self.log.name + ".1"))
                os.truncate(self.log, 0)
