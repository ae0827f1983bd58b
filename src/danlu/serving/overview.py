"""How the server stands, as Prometheus is told: what workers counted, its engines, and what these say themselves."""

from __future__ import annotations

import asyncio
import time

from danlu.core.errors import EngineError
from danlu.serving.drivers.driver import bare
from danlu.serving.drivers.requests import ask
from danlu.serving.engine_figures import read_figures
from danlu.serving.exposition import render
from danlu.serving.meters import Totals
from danlu.serving.pools import Pool
from danlu.serving.seats import Seat
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
        seats = [(pool, seat) for pool in server.rollout.fleet.pools.values() for seat in pool.seats]
        standing: Rows = {
            "in_flight": [((), totals.num_in_flight)],
            "workers": [((), sum(post.writer is not None for post in server.line.posts.values()))],
            "board": [((), server.rollout.board.number)],
            "up": [((seat.name, pool.plan.name, pool.plan.driver), seat.state == "ready") for pool, seat in seats],
            "starts": [((seat.name,), seat.child.facts.num_starts) for _, seat in seats if seat.child is not None],
            "outstanding": [((seat.name,), self._outstanding(seat)) for _, seat in seats],
            "lenses": [((seat.name,), len(seat.loaded)) for _, seat in seats],
        }
        standing |= {name: [((), totals.worst(name))] for name in GAUGES}
        if (cert := server.plan.cert) is not None and (ends := expires(cert)):
            standing["certificate"] = [((), ends)]
        return render(totals.sum(), standing | await self._engines(seats))

    def _outstanding(self, seat: Seat) -> int:
        return sum(post.on_replica.get(seat.name, 0) for post in self._server.line.posts.values())

    async def _engines(self, seats: list[tuple[Pool, Seat]]) -> Rows:
        """What our own engines tell; somebody else's are not asked."""
        asked_at, rows = self._figures
        if time.monotonic() - asked_at < KEEP_S:
            return rows
        own = [(pool, seat) for pool, seat in seats if seat.child is not None and seat.state == "ready"]
        found = await asyncio.gather(*(_ask(pool, seat) for pool, seat in own))
        rows = {}
        for (_, seat), figures in zip(own, found, strict=True):
            for key, value in figures.items():
                rows.setdefault(key, []).append(((seat.name,), value))
        self._figures = (time.monotonic(), rows)
        return rows


async def _ask(pool: Pool, seat: Seat) -> dict[str, float]:
    try:
        reply = await ask(seat.address, bare(seat.address, "/metrics"), seat.secret, timeout_s=ASK_S)
    except EngineError:
        return {}
    return read_figures(reply.body, pool.driver.about.figures) if reply.is_good else {}
