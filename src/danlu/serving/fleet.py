"""The fleet: all pools of a server, what each has loaded, and who makes room for whom. `rollout.py` says which versions
shall answer; here they are brought into the engines, and leave them when nobody needs them any more.

Old versions stay loaded while there is room, so that going back is as quick as going on; the one that was used longest
ago makes room, once its last answer has ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from danlu.core.errors import EngineError
from danlu.serving.instances import Check, Instance
from danlu.serving.lenses import OpenedLens
from danlu.serving.line import Line
from danlu.serving.pool_plan import PoolPlan
from danlu.serving.pools import Pool
from danlu.serving.processes import Patience
from danlu.serving.served import Use
from danlu.serving.spares import Spares


class Fleet:
    """`publish` shows a board of what stands now and gives its number; `in_use` names the lenses that models point at.
    `drain_s`: so long a change waits for answers of a lens that shall make room; `answer_s`: so long an engine that was
    replaced may finish its answers, while everything else goes on."""

    def __init__(
        self,
        home: Path,
        line: Line,
        *,
        check: Check,
        publish: Callable[[], int],
        in_use: Callable[[], set[str]],
        drain_s: float,
        answer_s: float,
        patience: Patience | None = None,
        on_instance: Callable[[Instance], None] = lambda instance: None,
    ) -> None:
        self.home, self.line = home, line
        self.pools: dict[str, Pool] = {}
        self.uses: dict[str, Use] = {}
        self.spares = Spares(home / "logs")
        self.ends: set[asyncio.Task[None]] = set()
        """Of pools that finish their last answers."""
        self.drain_s, self.answer_s = drain_s, answer_s
        self._check, self._publish, self._in_use = check, publish, in_use
        self._patience, self._on_instance = patience, on_instance

    def loaded(self) -> list[str]:
        return [name for pool in self.pools.values() for name in pool.lenses]

    def pool_with(self, lens: str) -> Pool | None:
        return next((pool for pool in self.pools.values() if lens in pool.lenses), None)

    async def close(self) -> None:
        for task in list(self.ends):
            task.cancel()
        await asyncio.gather(*(pool.stop() for pool in self.pools.values()), return_exceptions=True)
        await self.spares.close()

    async def start(self, wanted: Iterable[OpenedLens]) -> None:
        """All pools of these, each with all of its lenses: engines that take them at their start only start once."""
        wanted = list(wanted)
        for plan in {opened.pool.name: opened.pool for opened in wanted}.values():
            if plan.name not in self.pools:
                pool = self._pool(plan)
                await pool.start([opened for opened in wanted if opened.pool.name == plan.name])
                self.pools[plan.name] = pool
        for opened in wanted:
            await self.load(opened)

    async def load(self, opened: OpenedLens) -> None:
        """On every replica of its pool, checked there. What it takes the place of leaves first."""
        pool = self.pools.get(opened.lens.pool)
        if pool is None:
            pool = self._pool(opened.pool)
            await pool.start([opened])
            self.pools[opened.pool.name] = pool
        if opened.lens.name in pool.lenses:
            return
        assert not opened.lens.is_base, "a model comes with its pool"
        await self._make_room(pool)
        await pool.load(opened)

    async def let_go(self, pool: Pool, name: str) -> None:
        """Out of the engines, once nothing is asked of it any more."""
        if not await self.line.idle(name, self._publish(), within_s=self.drain_s):
            raise EngineError("rollout.busy", where=name, given=name, num=self.line.outstanding(name))
        await pool.drop(name)

    def close_unused(self) -> None:
        """Pools of whole models that nothing points at hold memory for nothing: they end with their last answers."""
        used = self._in_use()
        for name, pool in list(self.pools.items()):
            is_whole = any(opened.lens.is_base for opened in pool.lenses.values())
            if is_whole and used.isdisjoint(pool.lenses):
                del self.pools[name]
                task = asyncio.create_task(self._end(pool))
                self.ends.add(task)
                task.add_done_callback(self.ends.discard)

    async def resize(self, num_replicas: int) -> None:
        """Every pool of engines of our own has so many from now on."""
        for pool in self.pools.values():
            await pool.resize(num_replicas)

    async def revive(self) -> None:
        """Engines that died too often are tried once more."""
        for pool in list(self.pools.values()):
            await pool.revive()

    def note_use(self) -> None:
        """How often each lens was asked, as the workers tell."""
        now = time.time()
        for name in self.loaded():
            count = sum(post.num_leased.get(name, 0) for post in self.line.posts.values())
            use = self.uses.setdefault(name, Use())
            if count != use.num_leased:
                use.num_leased, use.last = count, now

    # ---- small things

    def _pool(self, plan: PoolPlan) -> Pool:
        return Pool(
            plan, self.home, check=self._check, changed=self._publish, vacate=self._vacate, spares=self.spares,
            patience=self._patience, on_instance=self._on_instance,
        )  # fmt: skip

    async def _make_room(self, pool: Pool) -> None:
        """The lens that was used longest ago, and that no model points at, leaves. EngineError where all are used."""
        self.note_use()
        used = self._in_use()
        idle = sorted((self.uses[name].last, name) for name in pool.adapters if name not in used)
        while len(pool.adapters) >= pool.plan.spec.max_adapters:
            if not idle:
                most = pool.plan.spec.max_adapters
                raise EngineError("rollout.full", where=pool.plan.name, most=most, used=", ".join(pool.adapters))
            await self.let_go(pool, idle.pop(0)[1])

    async def _vacate(self, replica: str) -> None:
        """A replica ends when its last answer has, or has had time to."""
        await self.line.free(replica, self._publish(), within_s=self.answer_s)

    async def _end(self, pool: Pool) -> None:
        number = self._publish()
        for lens in list(pool.lenses):
            await self.line.idle(lens, number, within_s=self.answer_s)
        await pool.stop()
