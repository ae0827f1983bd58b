"""One replica of a pool: a process of ours, or somebody else's URL; the lenses it has loaded, and how it comes back
after a death.

A lens is shown to clients only when this replica's files were those that were proven and it answered as it was proven
to, at its first start and at every one after. A process that comes back is shown with the first of its lenses; the
others follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from danlu.core.errors import DanluError, EngineError
from danlu.serving.board import State
from danlu.serving.drivers.driver import Driver, EngineSpec
from danlu.serving.pool_plan import Loadable, PoolPlan
from danlu.serving.processes import Child, Patience
from danlu.serving.proven_files import ProvenFiles
from danlu.serving.spares import Spares

WATCH_S = 2.0
"""How often an engine that is not ours is asked whether it is there."""
MEND_S = 10.0
"""And how often one that came back without some of its lenses tries to have them."""


@dataclass(frozen=True, slots=True)
class Question:
    """What `Check` is asked: does this replica answer as this lens was proven to, under this name of the engine's?"""

    instance: Instance
    driver: Driver
    loadable: Loadable
    engine_name: str
    is_return: bool
    """It answered before: its files are the same, and only its process is another."""


Check = Callable[[Question], Awaitable[str]]
"""A grade, or a DanluError."""


@dataclass(frozen=True, slots=True)
class PoolContext:
    """What all instances of a pool share. `changed` is called when the board would say something else of the pool,
    `on_instance` when an instance came into another state; neither may wait. `later` runs something as long as the pool
    lives."""

    plan: PoolPlan
    driver: Driver
    home: Path
    lenses: Mapping[str, Loadable]
    """What every instance shall have; the pool changes it."""
    files: ProvenFiles
    check: Check
    changed: Callable[[], object]
    on_instance: Callable[[Instance], None]
    later: Callable[[Any], None]
    spares: Spares
    patience: Patience | None


class Instance:
    """`start`, then `load` each lens, and the pool says that it is ready; after a death it does so itself."""

    def __init__(self, name: str, context: PoolContext, lenses: Mapping[str, Loadable]) -> None:
        """`lenses` are what its process is started with, where the driver loads nothing later."""
        self.name, self._context = name, context
        self.child: Child | None = None
        """None of a URL."""
        self.state: State = "down"
        self.since = time.time()
        self.problem = ""
        self.loaded: dict[str, str] = {}
        """Lens to what the engine calls it, of those that were checked here."""
        spec = _spec(context, lenses)
        self.names = context.driver.engine_names(spec)
        """What its process was started with; the base's key is empty."""
        self._misread: set[str] = set()
        """Of `names`, what this process may have read while the files were others."""
        self._is_on_its_base = False
        """What this process was started on was looked at, and was right."""
        command = context.driver.command(spec, context.home / name)
        if command is None:
            self.address, self.secret = context.driver.where(spec)
            return
        self.address, self.secret = command.address, command.secret
        self.child = Child(
            name, command, log=context.home / "logs" / f"{name}.log", patience=context.patience,
            is_ready=lambda: context.driver.is_ready(self.address, self.secret), on_change=self._child_changed,
            spare=context.spares.of(command),
        )  # fmt: skip

    @property
    def shown(self) -> State:
        """Its state as clients shall know it: what died too often, or has nothing that it may answer with, is not about
        to come back."""
        is_over = self.child is not None and self.child.state == "failed"
        return "failed" if self.state == "down" and (is_over or self.problem) else self.state

    async def start(self) -> None:
        """Until it answers; what it shall have is for the caller to load, and `ready` for it to say."""
        if self.child is not None:
            await _started(self.child)
        elif not await self._context.driver.is_ready(self.address, self.secret):
            raise EngineError("rollout.no_answer", where=self.address, name=self.name)
        else:
            self._context.later(self._watch())

    async def load(self, loadable: Loadable, *, is_return: bool = False) -> str:
        """Its grade here, once its files were looked at, it is in the engine, and answers as it should. A DanluError
        leaves the engine without it."""
        name, driver = loadable.lens.name, self._context.driver
        engine_name = self.names.get("" if loadable.lens.is_base else name)
        is_fresh = engine_name is None
        await self._look(loadable, key=None if is_fresh else "" if loadable.lens.is_base else name)
        if engine_name is None:
            assert loadable.folder is not None, "an adapter has files"
            engine_name = await driver.load(self.address, self.secret, name, loadable.folder)
        async with AsyncExitStack() as undo:
            if is_fresh:
                undo.push_async_callback(self._drop, engine_name)
            grade = await self._context.check(Question(self, driver, loadable, engine_name, is_return))
            undo.pop_all()
        self.loaded[name] = engine_name
        return grade

    async def unload(self, name: str) -> None:
        await self._drop(self.loaded.pop(name))

    async def fit(self) -> None:
        """Give it what the pool's lenses are made of, and let it be asked from the first on. A lens that cannot be had
        is left out here, and said."""
        found = ""
        for name, loadable in list(self._context.lenses.items()):
            if name in self.loaded or not (self._context.driver.can.loads_adapters or name in self._at_start):
                continue
            try:
                await self.load(loadable, is_return=True)
            except DanluError as error:
                found = told(error)
            except OSError as error:  # its folder cannot be read now
                found = f"{name}: {error}"
            else:
                self._is_up()
        before, self.problem = self.problem, found
        if found and found != before:
            self._context.on_instance(self)
            self._context.changed()

    async def end(self) -> None:
        self.state = "draining"  # on purpose: no event
        if self.child is not None:
            await self.child.stop()

    def become(self, state: State) -> None:
        if state != self.state:
            self.state, self.since = state, time.time()
            self._context.on_instance(self)

    # ---- its files

    async def _look(self, loadable: Loadable, key: str | None) -> None:
        """What it was started on, and this lens, are what was proven. `key`: of `names`, where the process itself has
        read it at its start. One that read other files has them in memory, whatever lies there now: it starts anew."""
        files = self._context.files
        if not self._is_on_its_base:
            await self._held("", files.check_base())
        await self._held(key, files.check(loadable))
        if self._misread & {"", key}:
            if not self.loaded and self.child is not None:
                await self.child.kill()
            raise EngineError("rollout.misread", where=self.name, lens=loadable.lens.name)
        self._is_on_its_base = True

    async def _held(self, key: str | None, looking: Awaitable[None]) -> None:
        try:
            await looking
        except (DanluError, OSError):
            if key is not None:
                self._misread.add(key)
            raise

    @property
    def _at_start(self) -> set[str]:
        """Lenses that its process was started with."""
        lenses = self._context.lenses.items()
        return {name for name, loadable in lenses if ("" if loadable.lens.is_base else name) in self.names}

    async def _drop(self, engine_name: str) -> None:
        try:
            await self._context.driver.drop(self.address, self.secret, engine_name)
        except EngineError as error:  # it is dying, and comes back without it
            self.problem = told(error)

    # ---- its process

    def _child_changed(self, child: Child) -> None:
        if child.state == "ready":
            if child.facts.num_starts > 1:
                self.loaded.clear()
                self._misread.clear()
                self._is_on_its_base = False
                self._context.later(self.mend())
        elif self.state == "ready":
            self.become("down")
            self._context.changed()
        elif child.state == "failed":
            self._context.on_instance(self)
            self._context.changed()

    async def mend(self) -> None:
        """After a start. A lens that cannot be had is tried again: a folder that is away comes back, and nobody else
        asks for it."""
        assert self.child is not None, "what starts is a process"
        starts = self.child.facts.num_starts
        while self.child.state == "ready" and self.child.facts.num_starts == starts and self.state != "draining":
            await self.fit()
            self._context.later(self._context.spares.keep())
            if not set(self._context.lenses) - set(self.loaded):
                return
            await asyncio.sleep(MEND_S)

    def _is_up(self) -> None:
        if self.state == "down" and (self.child is None or self.child.state == "ready"):
            self.become("ready")
        self._context.changed()

    async def _watch(self) -> None:
        """Of what we did not start: is it there?"""
        while True:
            await asyncio.sleep(WATCH_S)
            state: State = "ready" if await self._context.driver.is_ready(self.address, self.secret) else "down"
            if self.state != state and self.state != "draining":
                self.become(state)
                self._context.changed()


def _spec(context: PoolContext, lenses: Mapping[str, Loadable]) -> EngineSpec:
    """With adapters for engines that take them at the start only."""
    if context.driver.can.loads_adapters:
        return context.plan.spec
    files = {
        name: loadable.folder for name, loadable in lenses.items() if not loadable.lens.is_base and loadable.folder
    }
    return replace(context.plan.spec, adapters=files)


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


def told(error: DanluError) -> str:
    """One line for a status."""
    return " ".join(error.text.split())[:400]
