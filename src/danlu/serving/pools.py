"""Pools: one base, its replicas, and the lenses that they have loaded. In the server process; asks engines through
their driver, knows nothing of models and weights (`rollout.py`).

A lens is loaded on every replica and checked on every replica, or it is loaded on none. A replica that died comes back
with all lenses of its pool before it is shown as ready. Engines that load nothing at run time are replaced one by one:
a fresh process with all adapters, warm and checked, takes the place of the old one, which ends when its last answers
have.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from danlu.core.errors import DanluError, EngineError
from danlu.run.artifact import Manifest
from danlu.serving.board import Lens, Replica, State
from danlu.serving.drivers import DRIVERS
from danlu.serving.drivers.driver import Driver, EngineSpec
from danlu.serving.processes import Child, Patience

WATCH_S = 2.0
"""How often an engine that is not ours is asked whether it is there."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What a pool shall be; equal names are the same pool. "" and 0 are: not known, no bound."""

    name: str
    driver: str
    spec: EngineSpec
    """Without adapters: they come one by one. `max_adapters` is how many stay loaded."""
    takes: tuple[str, ...] = ()
    """Kinds of adapter artefacts that the driver loads."""
    base_digest: str = ""
    template_digest: str = ""
    max_rank: int = 0
    num_replicas: int = 1


class Loadable(Protocol):
    """A lens with its files: `lenses.OpenedLens`."""

    @property
    def lens(self) -> Lens: ...

    @property
    def folder(self) -> Path | None: ...

    @property
    def manifest(self) -> Manifest | None: ...


Check = Callable[["Seat", Driver, Loadable], Awaitable[str]]
"""Does this replica answer as this lens was proven to? A grade, or a DanluError."""


@dataclass(slots=True)
class Seat:
    """One replica: a process of ours, or a URL (`child` is None)."""

    name: str
    address: str
    secret: str
    child: Child | None = None
    state: State = "down"
    loaded: dict[str, str] = field(default_factory=dict)
    """Lens to what the engine calls it."""
    since: float = field(default_factory=time.time)
    problem: str = ""
    names: dict[str, str] = field(default_factory=dict)
    """What its process was started with, as `Driver.engine_names` says; some name adapters by their place there."""


class Pool:
    """`changed` is called whenever what the board would say of this pool is another, `on_seat` when a replica came into
    another state; neither may wait. `vacate` waits until nothing is asked of a replica any more."""

    def __init__(
        self,
        plan: PoolPlan,
        home: Path,
        *,
        check: Check,
        changed: Callable[[], None],
        vacate: Callable[[str], Awaitable[None]],
        patience: Patience | None = None,
        on_seat: Callable[[Seat], None] = lambda seat: None,
    ) -> None:
        self.plan, self.home = plan, home
        self.driver: Driver = DRIVERS.load(plan.driver)()
        self.seats: list[Seat] = []
        self.lenses: dict[str, Loadable] = {}
        """What every replica shall have."""
        self.grades: dict[str, str] = {}
        self._check, self._changed, self._vacate = check, changed, vacate
        self._patience, self._on_seat = patience, on_seat
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_started = 0
        self._is_closing = False
        self._states: dict[str, tuple[tuple[str, int, int], ...]] = {}
        """Sizes and times of each lens' files, as they were when they were last known to be right."""

    @property
    def adapters(self) -> list[str]:
        return [name for name, loadable in self.lenses.items() if not loadable.lens.is_base]

    def replicas(self) -> list[Replica]:
        return [
            Replica(
                seat.name, self.plan.name, self.plan.driver, seat.address, seat.secret, seat.state,
                tuple((lens, name) for lens, name in seat.loaded.items() if lens in self.lenses),
            )
            for seat in self.seats
        ]  # fmt: skip

    # ---- from nothing to answering, and back

    async def start(self, loadables: Sequence[Loadable]) -> None:
        """All replicas, answering for all of these. EngineError when anything is wrong: then none is left running."""
        adapters = [loadable for loadable in loadables if not loadable.lens.is_base]
        if len(adapters) > self.plan.spec.max_adapters:
            used = ", ".join(loadable.lens.name for loadable in adapters)
            raise EngineError("rollout.full", where=self.plan.name, most=self.plan.spec.max_adapters, used=used)
        later = adapters if self.driver.can.loads_adapters else []
        self.lenses = {loadable.lens.name: loadable for loadable in loadables if loadable not in later}
        self.seats = [self._seat() for _ in range(self.plan.num_replicas)]
        try:
            await _all([self._raise(seat) for seat in self.seats])
            for loadable in list(self.lenses.values()):
                await self._check_everywhere(loadable, self.seats)
            for seat in self.seats:
                seat.state = "ready"  # nobody waited for it: no event
            for loadable in later:
                await self._load_running(loadable)
        except BaseException:
            await self.stop()
            raise
        self._changed()

    async def stop(self) -> None:
        self._is_closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await _all([self._end(seat) for seat in self.seats])
        self.seats = []

    async def revive(self) -> None:
        """A replica whose process died too often gets a new one, with all lenses. What fails stays down."""
        for dead in [seat for seat in self.seats if seat.child is not None and seat.child.state == "failed"]:
            fresh = self._seat()
            try:
                await self._raise(fresh)
            except DanluError as error:
                dead.problem = told(error)
                await self._end(fresh)
                continue
            self.seats = [fresh if seat is dead else seat for seat in self.seats]
            self._become(fresh, "ready")
            self._changed()

    # ---- lenses

    async def load(self, loadable: Loadable) -> None:
        """Have it on every replica that is up, checked there. A failure anywhere takes it off again everywhere."""
        name = loadable.lens.name
        if name in self.lenses:
            return
        if not any(seat.state == "ready" for seat in self.seats):
            raise EngineError("rollout.nothing_up", where=self.plan.name, lens=name)
        if self.driver.can.loads_adapters:
            await self._load_running(loadable)
        else:
            await self._renew(loadable)
        self._changed()

    async def drop(self, name: str) -> None:
        """Nothing may be asked of it any more: who calls has waited for that."""
        self.lenses.pop(name, None)
        self.grades.pop(name, None)
        self._changed()
        if self.driver.can.loads_adapters:  # the others lose it with their next renewal
            await _all([self._unload(seat, name) for seat in self.seats if name in seat.loaded])

    async def _load_running(self, loadable: Loadable) -> None:
        name, up = loadable.lens.name, [seat for seat in self.seats if seat.state == "ready"]
        self.lenses[name] = loadable  # a replica that comes back meanwhile loads it too
        try:
            for seats in (up[:1], up[1:]):  # one first: what kills an engine shall kill one
                await _all([self._load_on(seat, loadable) for seat in seats])
                await self._check_everywhere(loadable, seats)
        except BaseException:
            self.lenses.pop(name, None)
            await _all([self._unload(seat, name) for seat in self.seats if name in seat.loaded])
            raise

    async def _load_on(self, seat: Seat, loadable: Loadable) -> None:
        """The files are those that were looked at, also when an engine comes back after weeks: a name is a content."""
        assert loadable.folder is not None and loadable.manifest is not None, "an adapter has files"
        await asyncio.to_thread(loadable.manifest.check_files, loadable.folder)
        seat.loaded[loadable.lens.name] = await self.driver.load(
            seat.address, seat.secret, loadable.lens.name, loadable.folder
        )

    async def _unload(self, seat: Seat, name: str) -> None:
        engine_name = seat.loaded.pop(name)
        try:
            await self.driver.drop(seat.address, seat.secret, engine_name)
        except EngineError as error:  # it is dying, and comes back without it
            seat.problem = told(error)

    async def _check_everywhere(self, loadable: Loadable, seats: list[Seat]) -> None:
        grades = [await self._check(seat, self.driver, loadable) for seat in seats]
        if grades:
            self.grades[loadable.lens.name] = grades[0]

    async def _renew(self, loadable: Loadable) -> None:
        """Fresh processes with one adapter more, each in the place of an old one."""
        name, wanted = loadable.lens.name, self.lenses | {loadable.lens.name: loadable}
        for old in [seat for seat in self.seats if seat.state != "draining"]:
            fresh = self._seat(wanted)
            try:
                await self._raise(fresh)
                await self._check_everywhere(loadable, [fresh])
            except BaseException:
                await self._end(fresh)
                raise
            fresh.state = "ready"
            self._become(old, "draining")
            self.seats = [*(fresh if seat is old else seat for seat in self.seats), old]
            self._changed()
            self._later(self._retire(old))
        self.lenses[name] = loadable

    async def _retire(self, seat: Seat) -> None:
        await self._vacate(seat.name)
        await self._end(seat)
        self.seats = [other for other in self.seats if other is not seat]
        self._changed()

    # ---- one replica

    def _seat(self, lenses: Mapping[str, Loadable] | None = None) -> Seat:
        name = f"{self.plan.name}-{self._num_started}"
        self._num_started += 1
        spec = self._spec(self.lenses if lenses is None else lenses)
        command = self.driver.command(spec, self.home / name)
        if command is None:
            seat = Seat(name, *self.driver.where(spec))
        else:
            seat = Seat(name, command.address, command.secret)
            seat.child = Child(
                name, command, log=self.home / "logs" / f"{name}.log", patience=self._patience,
                is_ready=lambda: self.driver.is_ready(seat.address, seat.secret),
                on_change=lambda child: self._child_changed(seat, child),
            )  # fmt: skip
        seat.names = self.driver.engine_names(spec)
        seat.loaded = {lens: engine_name for lens, engine_name in seat.names.items() if lens}
        return seat

    def _spec(self, lenses: Mapping[str, Loadable]) -> EngineSpec:
        """With adapters for engines that take them at the start only."""
        if self.driver.can.loads_adapters:
            return self.plan.spec
        files = {
            name: loadable.folder for name, loadable in lenses.items() if not loadable.lens.is_base and loadable.folder
        }
        return replace(self.plan.spec, adapters=files)

    async def _raise(self, seat: Seat) -> None:
        """Started and fitted; `ready` is for the caller to say."""
        if seat.child is not None:
            await _started(seat.child)
        elif not await self.driver.is_ready(seat.address, seat.secret):
            raise EngineError("rollout.no_answer", where=seat.address, name=seat.name)
        else:
            self._later(self._watch(seat))
        await self._fit(seat)

    async def _fit(self, seat: Seat) -> None:
        """Give it what the pool's lenses are made of. A lens that it refuses is left out there, and said."""
        for name, loadable in list(self.lenses.items()):
            try:
                if (key := "" if loadable.lens.is_base else name) in seat.names:
                    await self._look_again(loadable)
                    seat.loaded[name] = seat.names[key]
                elif self.driver.can.loads_adapters and name not in seat.loaded:
                    await self._load_on(seat, loadable)
            except DanluError as error:
                seat.problem = told(error)
            except OSError as error:  # its folder cannot be read now
                seat.problem = f"{name}: {error}"

    async def _look_again(self, loadable: Loadable) -> None:
        """A process that starts anew reads the files anew: what was written since it was proven goes under no name of
        before. Hashed again only where a size or a time is another, for models are large."""
        if loadable.folder is None or loadable.manifest is None:
            return
        state = await asyncio.to_thread(_state_of, loadable.folder)
        if self._states.setdefault(loadable.lens.name, state) != state:
            await asyncio.to_thread(loadable.manifest.check_files, loadable.folder)
            self._states[loadable.lens.name] = state

    def _child_changed(self, seat: Seat, child: Child) -> None:
        if child.state == "ready":
            if child.facts.num_starts > 1:
                self._later(self._come_back(seat))
        elif seat.state == "ready":
            self._become(seat, "down")
            self._changed()

    async def _come_back(self, seat: Seat) -> None:
        """After a death. Lenses first, then requests. A lens that cannot be had is tried again: a folder that is away
        comes back, and nobody else asks for it."""
        assert seat.child is not None, "what died was a process"
        seat.loaded.clear()
        starts = seat.child.facts.num_starts
        while seat.child.state == "ready" and seat.child.facts.num_starts == starts and seat.state != "draining":
            before, seat.problem = set(seat.loaded), ""
            await self._fit(seat)
            if seat.child.state == "ready" and seat.state == "down":
                self._become(seat, "ready")
                self._changed()
            elif before != set(seat.loaded):
                self._changed()
            if not set(self.lenses) - set(seat.loaded):
                return
            await asyncio.sleep(MEND_S)

    async def _watch(self, seat: Seat) -> None:
        """Of what we did not start: is it there?"""
        while True:
            await asyncio.sleep(WATCH_S)
            state: State = "ready" if await self.driver.is_ready(seat.address, seat.secret) else "down"
            if seat.state != state and seat in self.seats:
                self._become(seat, state)
                self._changed()

    async def _end(self, seat: Seat) -> None:
        seat.state = "draining"  # on purpose: no event
        if seat.child is not None:
            await seat.child.stop()

    def _become(self, seat: Seat, state: State) -> None:
        if state != seat.state:
            seat.state, seat.since = state, time.time()
            self._on_seat(seat)

    def _later(self, work: Any) -> None:
        if self._is_closing:
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _state_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    found = ((path, path.stat()) for path in sorted(folder.rglob("*")))
    return tuple((path.relative_to(folder).as_posix(), told.st_size, told.st_mtime_ns) for path, told in found)


async def _started(child: Child) -> None:
    """Who thinks better of it while it starts leaves no process behind, and no error that nobody heard."""
    starting = asyncio.ensure_future(child.start())
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await child.stop()
        with contextlib.suppress(EngineError):
            await starting
        raise


async def _all(works: list[Any]) -> None:
    """Together; the first fault is raised once none of them runs any more."""
    found = await asyncio.gather(*works, return_exceptions=True)
    for fault in found:
        if isinstance(fault, BaseException):
            raise fault


def told(error: DanluError) -> str:
    """One line for a status."""
    return " ".join(error.text.split())[:400]


MEND_S = 10.0
"""And how often one that came back without some of its lenses tries to have them."""
