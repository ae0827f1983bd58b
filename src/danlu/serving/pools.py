"""Pools: one base, its replicas, and the lenses that they have loaded. In the server process; asks engines through
their driver, knows nothing of models and weights (`rollout.py`).

A lens is loaded on every replica and checked on every replica, or it is loaded on none. A replica that died comes back
by itself (`instances.py`). Engines that load nothing at run time are replaced one by one: a fresh process with all
adapters, warm and checked, takes the place of the old one, which ends when its last answers have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from danlu.core.errors import DanluError, EngineError
from danlu.serving.board import Replica
from danlu.serving.drivers import DRIVERS
from danlu.serving.drivers.driver import Driver
from danlu.serving.instances import Check, Instance, PoolContext, told
from danlu.serving.pool_plan import Loadable, PoolPlan
from danlu.serving.processes import Patience
from danlu.serving.proven_files import ProvenFiles
from danlu.serving.spares import Spares


class Pool:
    """`changed` is called whenever what the board would say of this pool is another, `on_instance` when a replica came
    into another state; neither may wait. `vacate` waits until nothing is asked of a replica any more."""

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
        on_instance: Callable[[Instance], None] = lambda instance: None,
    ) -> None:
        self.plan = plan
        self.driver: Driver = DRIVERS.load(plan.driver)()
        self.instances: list[Instance] = []
        self.lenses: dict[str, Loadable] = {}
        """What every replica shall have."""
        self.grades: dict[str, str] = {}
        self._changed, self._vacate, self._spares = changed, vacate, spares
        self._files = ProvenFiles(plan)
        self._context = PoolContext(
            plan, self.driver, home, self.lenses, self._files, check, changed, on_instance, self._later, spares,
            patience,
        )  # fmt: skip
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_started = 0
        self._is_closing = False

    @property
    def adapters(self) -> list[str]:
        return [name for name, loadable in self.lenses.items() if not loadable.lens.is_base]

    def replicas(self) -> list[Replica]:
        return [
            Replica(
                instance.name, self.plan.name, self.plan.driver, instance.address, instance.secret, instance.shown,
                tuple((lens, name) for lens, name in instance.loaded.items() if lens in self.lenses),
            )
            for instance in self.instances
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
        self.instances = [self._instance() for _ in range(self.plan.num_replicas)]
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.stop)
            await _all([instance.start() for instance in self.instances])
            for loadable in list(self.lenses.values()):
                await self._load_on(self.instances, loadable)
            for instance in self.instances:
                instance.state = "ready"  # nobody waited for it: no event
            for loadable in later:
                await self._load_running(loadable)
            undo.pop_all()
        self._changed()
        self._later(self._spares.keep())

    async def stop(self) -> None:
        self._is_closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await _end_all(self.instances)
        self.instances = []

    async def revive(self) -> None:
        """A replica whose process died too often gets a new one, with all lenses. What fails stays down."""
        for dead in [one for one in self.instances if one.child is not None and one.child.state == "failed"]:
            fresh = self._instance()
            try:
                await fresh.start()
            except DanluError as error:
                dead.problem = told(error)
                await fresh.end()
                continue
            self.instances = [fresh if instance is dead else instance for instance in self.instances]
            self._later(fresh.mend())

    async def resize(self, num_replicas: int) -> None:
        """More start with all lenses before they are shown; of fewer, the last ones finish their answers and end. A
        DanluError leaves as many as there were."""
        if any(instance.child is None for instance in self.instances):  # somebody else's
            return
        standing = [instance for instance in self.instances if instance.state != "draining"]
        fresh = [self._instance() for _ in range(num_replicas - len(standing))]
        async with AsyncExitStack() as undo:
            undo.push_async_callback(_end_all, fresh)
            await _all([instance.start() for instance in fresh])
            for loadable in list(self.lenses.values()):
                await self._load_on(fresh, loadable)
            undo.pop_all()
        for instance in fresh:
            instance.state = "ready"
        self.instances += fresh
        for instance in standing[num_replicas:]:
            instance.become("draining")
            self._later(self._retire(instance))
        self.plan = replace(self.plan, num_replicas=num_replicas)
        self._changed()

    # ---- lenses

    async def load(self, loadable: Loadable) -> None:
        """Have it on every replica that is up, checked there. A failure anywhere takes it off again everywhere."""
        name = loadable.lens.name
        if name in self.lenses:
            return
        if not any(instance.state == "ready" for instance in self.instances):
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
            await _all([instance.unload(name) for instance in self.instances if name in instance.loaded])

    async def _load_running(self, loadable: Loadable) -> None:
        name, up = loadable.lens.name, [instance for instance in self.instances if instance.state == "ready"]
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._forget, name)
            self.lenses[name] = loadable  # a replica that comes back meanwhile loads it too
            for instances in (up[:1], up[1:]):  # one first: what kills an engine shall kill one
                await self._load_on(instances, loadable)
            undo.pop_all()

    async def _forget(self, name: str) -> None:
        self.lenses.pop(name, None)
        await _all([instance.unload(name) for instance in self.instances if name in instance.loaded])

    async def _load_on(self, instances: Sequence[Instance], loadable: Loadable) -> None:
        for grade in await _all([instance.load(loadable) for instance in instances]):
            self.grades[loadable.lens.name] = grade

    async def _renew(self, loadable: Loadable) -> None:
        """Fresh processes with one adapter more, each in the place of an old one."""
        name, wanted = loadable.lens.name, self.lenses | {loadable.lens.name: loadable}
        for old in [instance for instance in self.instances if instance.state != "draining"]:
            fresh = self._instance(wanted)
            async with AsyncExitStack() as undo:
                undo.push_async_callback(fresh.end)
                await fresh.start()
                await self._load_on([fresh], loadable)
                undo.pop_all()
            fresh.state = "ready"
            await fresh.fit()  # with those that the old one has
            old.become("draining")
            self.instances = [*(fresh if instance is old else instance for instance in self.instances), old]
            self._changed()
            self._later(self._retire(old))
        self.lenses[name] = loadable

    async def _retire(self, instance: Instance) -> None:
        await self._vacate(instance.name)
        await instance.end()
        self.instances = [other for other in self.instances if other is not instance]
        self._changed()

    # ---- small things

    def _instance(self, lenses: Mapping[str, Loadable] | None = None) -> Instance:
        name = f"{self.plan.name}-{self._num_started}"
        self._num_started += 1
        return Instance(name, self._context, self.lenses if lenses is None else lenses)

    def _later(self, work: Any) -> None:
        if self._is_closing:
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _end_all(instances: Sequence[Instance]) -> None:
    await _all([instance.end() for instance in instances])


async def _all(works: list[Any]) -> list[Any]:
    """Together; the first fault is raised once none of them runs any more."""
    found = await asyncio.gather(*works, return_exceptions=True)
    for fault in found:
        if isinstance(fault, BaseException):
            raise fault
    return found
