"""A running server's settings read again: what can change while it answers changes, and what cannot is told with both
values and waits for the next start.

Live: models, replicas, workers, address, certificate, caps, and all else that gateway workers read. Not live is what
engines were started with, and what the server process itself holds open.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from danlu.core.errors import DanluError, EngineError
from danlu.core.files import dump_json
from danlu.pipeline.serve_look import Serving, check_files, count_keys, look
from danlu.pipeline.serve_targets import Wanted
from danlu.recipe.serving import ServingSection
from danlu.serving.bind import address_text, check_bind, listen, own_hosts
from danlu.serving.drivers.driver import Command
from danlu.serving.plan import Kept, Plan, Renewal
from danlu.serving.rollout import Offer
from danlu.serving.settings import Settings

NOT_LIVE = ("engine", "program", "context", "slots", "store", "metrics_host", "metrics_port", "webhooks")
"""Of the chapter `serving`."""
Reread = Callable[[], tuple[Sequence[Wanted], ServingSection]]
Tell = Callable[[str, Mapping[str, Any]], None]


def plan_of(serving: Serving, on_event: Tell, reread: Reread | None) -> Plan:
    section = serving.section
    return Plan(
        home=serving.home, runs=serving.runs, offers=serving.offers, pool_for=serving.pool_for,
        worker=_worker_of(serving), listener=serving.listener, num_workers=section.workers,
        allow_unverified=section.allow_unverified, drain_s=section.caps.drain_s, answer_s=section.caps.answer_s,
        cert=Path(section.tls.cert) if section.tls.cert else None, on_event=on_event,
        renew=None if reread is None else lambda: _renewal(serving, on_event, reread),
    )  # fmt: skip


def _renewal(serving: Serving, on_event: Tell, reread: Reread) -> Renewal:
    """EngineError where the settings cannot be used now: nothing has changed then."""
    try:
        fresh, kept = _renewed(serving, reread)
    except DanluError as error:
        raise EngineError("serve.bad_reload", said=error.text) from error
    return Renewal(plan_of(fresh, on_event, reread), fresh.section.replicas, kept)


def _renewed(serving: Serving, reread: Reread) -> tuple[Serving, tuple[Kept, ...]]:
    before = serving.section
    wanted, said = reread()
    changed = [name for name in NOT_LIVE if getattr(said, name) != getattr(before, name)]
    kept = [Kept(f"serving.{name}", _plain(getattr(before, name)), _plain(getattr(said, name))) for name in changed]
    section = said.model_copy(update={name: getattr(before, name) for name in changed})
    check_files(section)
    looked = look(wanted, section, serving.runs, serving.home)
    offers, urls = _urls_kept(serving.offers, looked.offers)
    num_keys, _ = count_keys(section, serving.home, makes_key=False)
    has_tls = section.tls.cert is not None
    check_bind(section.host, num_keys=num_keys, has_tls=has_tls, plain_http=section.plain_http)
    is_moved = (section.host, section.port) != (before.host, before.port)
    listener = listen(section.host, section.port) if is_moved else serving.listener
    url = address_text(section.host, listener.getsockname()[1], has_tls=has_tls, hosts=section.hosts)
    fresh = replace(
        serving, section=section, url=url, hosts=own_hosts(section.host, section.hosts), listener=listener,
        offers=offers, choices=looked.choices, models=looked.models, pool_for=looked.pool_for, num_keys=num_keys,
    )  # fmt: skip
    return fresh, (*kept, *urls)


def _urls_kept(before: Sequence[Offer], after: Sequence[Offer]) -> tuple[tuple[Offer, ...], list[Kept]]:
    """Somebody else's engine that is described otherwise under the same name stays as it was: its name there, its key
    and its address are what its pool was opened with."""
    was = {offer.model: offer for offer in before if offer.url is not None}
    found, kept = [], []
    for offer in after:
        old = was.get(offer.model)
        if old is not None and offer.url is not None and offer != old:
            kept.append(Kept(f"serving.models.{offer.model}", _address(old), _address(offer)))
            offer = old
        found.append(offer)
    return tuple(found), kept


def _address(offer: Offer) -> str:
    assert offer.url is not None, "an engine of somebody else's"
    spec = offer.url.spec
    return ", ".join(filter(None, (spec.url, spec.name, str(spec.key_file or ""), str(offer.artifact or ""))))


def _plain(value: Any) -> str:
    """As a settings' file says it."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json", exclude_defaults=True)
    elif isinstance(value, tuple):
        value = [each.model_dump(mode="json", exclude_defaults=True) for each in value]
    return value if isinstance(value, str) else dump_json(value, indent=False).decode()


def _worker_of(serving: Serving) -> Callable[[str, int, Path], Command]:
    """How workers are started."""

    def command(name: str, fd: int, line: Path) -> Command:
        section = serving.section
        settings = Settings(
            str(serving.home), serving.url, own_hosts(section.host, section.hosts), section.workers,
            section.model_dump(mode="json"),
        )  # fmt: skip
        argv = [sys.executable, "-m", "danlu.serving.worker", "--name", name, "--fd", str(fd), "--line", str(line)]
        return Command(argv, {}, "", settings.to_line())

    return command
