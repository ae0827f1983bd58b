"""What stands around a running server: its own log, the books that fold journals, webhooks, and the port of figures."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from danlu.core.errors import RunError
from danlu.pipeline.serve_look import Serving
from danlu.run.audit import NAME as AUDIT_LOG
from danlu.serving.exposition import open_metrics
from danlu.serving.logs import RequestLog
from danlu.serving.overview import Overview
from danlu.serving.server import Server
from danlu.serving.settings import store_url
from danlu.serving.store import open_store
from danlu.serving.usage import Bookkeeper
from danlu.serving.webhooks import Webhooks

Tell = Callable[[str, Mapping[str, Any]], None]


@contextlib.asynccontextmanager
async def surroundings(serving: Serving) -> AsyncIterator[Tell]:
    """The server's own log, its books, and webhooks."""
    log = RequestLog(serving.home / "logs" / "server.jsonl")
    store = open_store(serving.home, store_url(serving.section))
    books = Bookkeeper(
        serving.home, store, failed=lambda fault: log.event("store_away", said=str(fault)),
        back=lambda after_s: log.event("store_back", after_s=after_s),
        told=lambda folded: log.event("journals", lost=len(folded.lost), broken=len(folded.broken)),
    )  # fmt: skip
    books.start()
    hooks = Webhooks(serving.section.webhooks, audit=serving.runs / AUDIT_LOG, home=serving.home, told=log.event)

    def tell(name: str, facts: Mapping[str, Any]) -> None:
        log.event(name, **{("of" if key == "event" else key): value for key, value in facts.items()})
        if _is_news(name, facts):
            hooks.tell(name, **facts)

    try:
        yield tell
    finally:
        await asyncio.to_thread(hooks.close)
        await asyncio.to_thread(books.stop)
        store.close()
        log.close()


def _is_news(name: str, facts: Mapping[str, Any]) -> bool:
    """For webhooks: what does not stand in the audit log, which they follow themselves, and is more than routine."""
    if name == "worker":
        return facts.get("state") in ("waiting", "failed")
    return name in ("engine", "reloaded", "warning") or (
        name == "refused" and facts.get("deed") in ("reload", "follow")
    )


@contextlib.asynccontextmanager
async def figures(serving: Serving, server: Server, told: Tell) -> AsyncIterator[None]:
    """Prometheus' port, and the eye on workers' counters. A default port that another server has is no fault."""
    section = serving.section
    overview = Overview(server)
    watching = asyncio.create_task(overview.watch())
    opened: asyncio.Server | None = None
    if section.metrics_port:
        try:
            opened = await open_metrics(section.metrics_host, section.metrics_port, overview.page)
        except OSError as error:
            if "metrics_port" in section.model_fields_set:
                watching.cancel()
                raise RunError(
                    "serve.metrics_port", where="serving.metrics_port", given=section.metrics_port,
                    said=error.strerror or str(error),
                ) from error  # fmt: skip
            told("no_figures", {"port": section.metrics_port})
    try:
        yield
    finally:
        watching.cancel()
        if opened is not None:
            opened.close()
