"""How the server stands, as Prometheus is told: what workers counted, its engines, and what these say themselves."""

from __future__ import annotations

import asyncio
import time

from danlu.core.errors import EngineError
from danlu.serving.drivers.driver import bare
from danlu.serving.drivers.requests import ask
from danlu.serving.engine_figures import read_figures
from danlu.serving.exposition import render
from danlu.serving.instances import Instance
from danlu.serving.meters import Totals
from danlu.serving.pools import Pool
from danlu.serving.server import Server
from danlu.serving.tls import expires

Rows = dict[str, list[tuple[tuple[str, ...], float]]]
ASK_S = 2.0
KEEP_S = 3.0
"""Engines are asked no more often than so."""
GAUGES = ("keys_stale", "limits_alarm", "journal_failing")


class Overview:
    """One a server. `watch` keeps what dead workers had counted; `page` is the text."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._totals = Totals()
        self._figures: tuple[float, Rows] = (0.0, {})

    async def watch(self, every_s: float = 1.0) -> None:
        while True:
            self._totals.take(self._server.counters)
            await asyncio.sleep(every_s)

    async def page(self) -> bytes:
        server, totals = self._server, self._totals
        totals.take(server.counters)
        instances = [(pool, instance) for pool in server.rollout.fleet.pools.values() for instance in pool.instances]
        standing: Rows = {
            "in_flight": [((), totals.num_in_flight)],
            "workers": [((), sum(post.writer is not None for post in server.line.posts.values()))],
            "board": [((), server.rollout.board.number)],
            "up": [((one.name, pool.plan.name, pool.plan.driver), one.state == "ready") for pool, one in instances],
            "starts": [((one.name,), one.child.facts.num_starts) for _, one in instances if one.child is not None],
            "outstanding": [((one.name,), self._outstanding(one)) for _, one in instances],
            "lenses": [((one.name,), len(one.loaded)) for _, one in instances],
        }
        standing |= {name: [((), totals.worst(name))] for name in GAUGES}
        if (cert := server.plan.cert) is not None and (ends := expires(cert)):
            standing["certificate"] = [((), ends)]
        return render(totals.sum(), standing | await self._engines(instances))

    def _outstanding(self, instance: Instance) -> int:
        return sum(post.on_replica.get(instance.name, 0) for post in self._server.line.posts.values())

    async def _engines(self, instances: list[tuple[Pool, Instance]]) -> Rows:
        """What our own engines tell; somebody else's are not asked."""
        asked_at, rows = self._figures
        if time.monotonic() - asked_at < KEEP_S:
            return rows
        own = [(pool, one) for pool, one in instances if one.child is not None and one.state == "ready"]
        found = await asyncio.gather(*(_ask(pool, instance) for pool, instance in own))
        rows = {}
        for (_, instance), figures in zip(own, found, strict=True):
            for key, value in figures.items():
                rows.setdefault(key, []).append(((instance.name,), value))
        self._figures = (time.monotonic(), rows)
        return rows


async def _ask(pool: Pool, instance: Instance) -> dict[str, float]:
    try:
        reply = await ask(instance.address, bare(instance.address, "/metrics"), instance.secret, timeout_s=ASK_S)
    except EngineError:
        return {}
    return read_figures(reply.body, pool.driver.about.figures) if reply.is_good else {}
