"""Pools: one base, its replicas, and the lenses that they have loaded. In the server process; asks engines through
their driver, knows nothing of models and weights (`rollout.py`).

A lens is loaded on every replica and checked on every replica, or it is loaded on none. A replica that died comes back
by itself (`seats.py`). Engines that load nothing at run time are replaced one by one: a fresh process with all
adapters, warm and checked, takes the place of the old one, which ends when its last answers have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from danlu.core.errors import DanluError, EngineError
from danlu.serving.board import Replica
from danlu.serving.drivers import DRIVERS
from danlu.serving.drivers.driver import Driver
from danlu.serving.pool_plan import Loadable, PoolPlan
from danlu.serving.processes import Patience
from danlu.serving.proven_files import ProvenFiles
from danlu.serving.seats import Check, Means, Seat, told
from danlu.serving.spares import Spares


class Pool:
    """`changed` is called whenever what the board would say of this pool is another, `on_seat` when a replica came into
    another state; neither may wait. `vacate` waits until nothing is asked of a replica any more."""

    def __init__(
        self,
        plan: PoolPlan,
        home: Path,
        *,
        check: Check,
        changed: Callable[[], object],
        vacate: Callable[[str], Awaitable[None]],
        spares: Spares,
        patience: Patience | None = None,
        on_seat: Callable[[Seat], None] = lambda seat: None,
    ) -> None:
        self.plan = plan
        self.driver: Driver = DRIVERS.load(plan.driver)()
        self.seats: list[Seat] = []
        self.lenses: dict[str, Loadable] = {}
        """What every replica shall have."""
        self.grades: dict[str, str] = {}
        self._changed, self._vacate, self._spares = changed, vacate, spares
        self._files = ProvenFiles(plan)
        self._means = Means(
            plan, self.driver, home, self.lenses, self._files, check, changed, on_seat, self._later, spares, patience
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_started = 0
        self._is_closing = False

    @property
    def adapters(self) -> list[str]:
        return [name for name, loadable in self.lenses.items() if not loadable.lens.is_base]

    def replicas(self) -> list[Replica]:
        return [
            Replica(
                seat.name, self.plan.name, self.plan.driver, seat.address, seat.secret, seat.shown,
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
        self.lenses.update((one.lens.name, one) for one in loadables if one not in later)
        await self._files.take()
        self.seats = [self._seat() for _ in range(self.plan.num_replicas)]
        try:
            await _all([seat.start() for seat in self.seats])
            for loadable in list(self.lenses.values()):
                await self._load_on(self.seats, loadable)
            for seat in self.seats:
                seat.state = "ready"  # nobody waited for it: no event
            for loadable in later:
                await self._load_running(loadable)
        except BaseException:
            await self.stop()
            raise
        self._changed()
        self._later(self._spares.keep())

    async def stop(self) -> None:
        self._is_closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await _all([seat.end() for seat in self.seats])
        self.seats = []

    async def revive(self) -> None:
        """A replica whose process died too often gets a new one, with all lenses. What fails stays down."""
        for dead in [seat for seat in self.seats if seat.child is not None and seat.child.state == "failed"]:
            fresh = self._seat()
            try:
                await fresh.start()
            except DanluError as error:
                dead.problem = told(error)
                await fresh.end()
                continue
            self.seats = [fresh if seat is dead else seat for seat in self.seats]
            self._later(fresh.mend())

    async def resize(self, num_replicas: int) -> None:
        """More start with all lenses before they are shown; of fewer, the last ones finish their answers and end. A
        DanluError leaves as many as there were."""
        if any(seat.child is None for seat in self.seats):  # somebody else's
            return
        standing = [seat for seat in self.seats if seat.state != "draining"]
        fresh = [self._seat() for _ in range(num_replicas - len(standing))]
        try:
            await _all([seat.start() for seat in fresh])
            for loadable in list(self.lenses.values()):
                await self._load_on(fresh, loadable)
        except BaseException:
            await _all([seat.end() for seat in fresh])
            raise
        for seat in fresh:
            seat.state = "ready"
        self.seats += fresh
        for seat in standing[num_replicas:]:
            seat.become("draining")
            self._later(self._retire(seat))
        self.plan = replace(self.plan, num_replicas=num_replicas)
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
            await _all([seat.unload(name) for seat in self.seats if name in seat.loaded])

    async def _load_running(self, loadable: Loadable) -> None:
        name, up = loadable.lens.name, [seat for seat in self.seats if seat.state == "ready"]
        self.lenses[name] = loadable  # a replica that comes back meanwhile loads it too
        try:
            for seats in (up[:1], up[1:]):  # one first: what kills an engine shall kill one
                await self._load_on(seats, loadable)
        except BaseException:
            self.lenses.pop(name, None)
            await _all([seat.unload(name) for seat in self.seats if name in seat.loaded])
            raise

    async def _load_on(self, seats: Sequence[Seat], loadable: Loadable) -> None:
        for grade in await _all([seat.load(loadable) for seat in seats]):
            self.grades[loadable.lens.name] = grade

    async def _renew(self, loadable: Loadable) -> None:
        """Fresh processes with one adapter more, each in the place of an old one."""
        name, wanted = loadable.lens.name, self.lenses | {loadable.lens.name: loadable}
        for old in [seat for seat in self.seats if seat.state != "draining"]:
            fresh = self._seat(wanted)
            try:
                await fresh.start()
                await self._load_on([fresh], loadable)
            except BaseException:
                await fresh.end()
                raise
            fresh.state = "ready"
            await fresh.fit()  # with those that the old one has
            old.become("draining")
            self.seats = [*(fresh if seat is old else seat for seat in self.seats), old]
            self._changed()
            self._later(self._retire(old))
        self.lenses[name] = loadable

    async def _retire(self, seat: Seat) -> None:
        await self._vacate(seat.name)
        await seat.end()
        self.seats = [other for other in self.seats if other is not seat]
        self._changed()

    # ---- small things

    def _seat(self, lenses: Mapping[str, Loadable] | None = None) -> Seat:
        name = f"{self.plan.name}-{self._num_started}"
        self._num_started += 1
        return Seat(name, self._means, self.lenses if lenses is None else lenses)

    def _later(self, work: Any) -> None:
        if self._is_closing:
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _all(works: list[Any]) -> list[Any]:
    """Together; the first fault is raised once none of them runs any more."""
    found = await asyncio.gather(*works, return_exceptions=True)
    for fault in found:
        if isinstance(fault, BaseException):
            raise fault
    return found
