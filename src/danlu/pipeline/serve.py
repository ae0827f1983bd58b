"""Serving: everything is checked before anything starts, and what was found is told before anybody is let in.

`prepare_serving` opens artefacts through their door, finds bases, chooses engines, looks at address, certificate, keys
and stores, and takes the port. `run_server` then lives until it is told to end. No torch: engines are processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.core.errors import DanluError, EngineError, HubError, ModelError, RunError
from danlu.core.messages import say
from danlu.exports.verify import verify
from danlu.model.hub import find_base
from danlu.model.shards import known_digest
from danlu.pipeline.serve_targets import Wanted, read_targets
from danlu.recipe.serving import ServingSection
from danlu.run.artifact import Manifest
from danlu.run.audit import NAME as AUDIT_LOG
from danlu.run.registry import Registry
from danlu.run.run import Run
from danlu.serving.bind import address_text, check_bind, is_loopback, listen, own_hosts
from danlu.serving.choosing import Choice, Knobs, Machine, Offered, choose, notes_apart
from danlu.serving.drivers.about import GGUF_ADAPTERS, PEFT_ADAPTERS
from danlu.serving.drivers.base_gguf import base_file
from danlu.serving.drivers.driver import Command, EngineSpec
from danlu.serving.exposition import open_metrics
from danlu.serving.keys import Key, KeyBook, Pepper, open_pepper
from danlu.serving.known_servers import KnownServers, verifier_of
from danlu.serving.logs import RequestLog
from danlu.serving.overview import Overview
from danlu.serving.pool_plan import PoolPlan
from danlu.serving.private import check_private, write_private
from danlu.serving.rollout import Offer
from danlu.serving.server import Plan, Server
from danlu.serving.settings import HOME, Settings, check_packages, pepper_of, store_url
from danlu.serving.store import URL, open_store
from danlu.serving.tls import tls_context
from danlu.serving.usage import Bookkeeper
from danlu.serving.webhooks import Webhooks, check_hook

BASES = "bases"


@dataclass(frozen=True, slots=True)
class Told:
    """A model as it will be served, for people."""

    model: str
    target: str
    kind: str
    digest: str
    driver: str
    why: str


@dataclass
class Serving:
    """A server that could start now. `listener` is open; `close` it where nothing comes of it."""

    section: ServingSection
    home: Path
    runs: Path
    url: str
    hosts: tuple[str, ...]
    listener: socket.socket
    offers: tuple[Offer, ...]
    choices: tuple[Choice, ...]
    models: tuple[Told, ...]
    pool_for: Callable[[Path, Manifest], PoolPlan]
    num_keys: int
    first_key: str = ""
    """A fresh key's credential, told once; "" where there were keys, or nobody is there to read it."""
    notes: list[str] = field(default_factory=list)

    def close(self) -> None:
        self.listener.close()


def prepare_serving(
    wanted: Sequence[Wanted],
    section: ServingSection,
    runs: Path,
    *,
    makes_key: bool = False,
    account: Path | None = None,
) -> Serving:
    """Look at everything. A DanluError says what is wrong, before a process was started. `makes_key`: make a first key
    where there is none and only this machine is served. `account`: where `danlu chat` of this account finds it."""
    if not wanted:
        raise RunError("serve.nothing", where="danlu serve")
    check_packages()
    home = runs.resolve() / HOME
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    _check_files(section)
    if section.engine == "upstream" and (own := [each.name for each in wanted if not each.url]):
        raise RunError("serve.upstream_only", where="serving.engine", given=", ".join(own))
    found = [_found(each, runs) for each in wanted]
    bases = BaseFinder(home)
    machine = Machine.look(python=section.program or "")
    knobs = _knobs(section)
    offered = [one for one in found if one is not None]
    choices = tuple(choose(offered, machine, bases.find, knobs)) if offered else ()
    offers = tuple(_offer(each) for each in wanted)
    keys, first = _keys(section, home, makes_key=makes_key and is_loopback(section.host))
    check_bind(section.host, num_keys=keys, has_tls=section.tls.cert is not None, plain_http=section.plain_http)
    listener = listen(section.host, section.port)
    port, has_tls = listener.getsockname()[1], section.tls.cert is not None
    url = address_text(section.host, port, has_tls=has_tls, hosts=section.hosts)
    if first is not None and account is not None:
        KnownServers(account).remember(url, first[1], verifier_of(Pepper.open(pepper_of(section, home)), first[0].id))
    return Serving(
        section, home, runs.resolve(), url, own_hosts(section.host, section.hosts), listener, offers, choices,
        tuple(_told(each, one, choices) for each, one in zip(wanted, found, strict=True)),
        lambda folder, manifest: choose([Offered(manifest.name, folder, manifest)], machine, bases.find, knobs)[0].plan,
        keys, first[1] if first else "", [*notes_apart(offered), *_notes(section, keys)],
    )  # fmt: skip


def serve(targets: Sequence[str], section: ServingSection | None = None, *, runs: Path = Path("runs")) -> None:
    """Serve artefacts, versions or URLs until SIGTERM or SIGINT: `danlu.serve(["runs/x/artifacts/adapter"])`."""
    settled = section or ServingSection()
    serving = prepare_serving(read_targets(targets, settled, runs, Run.open), settled, runs)
    try:
        asyncio.run(run_server(serving))
    finally:
        serving.close()


async def run_server(
    serving: Serving,
    *,
    reread: Callable[[], ServingSection] | None = None,
    on_event: Callable[[str, Mapping[str, Any]], None] = lambda name, facts: None,
) -> None:
    """Until SIGTERM or SIGINT. `reread` gives the settings anew for a reload; `on_event` is told what happens."""
    section = serving.section
    async with _surroundings(serving) as tell:

        def told(name: str, facts: Mapping[str, Any]) -> None:
            tell(name, facts)
            on_event(name, facts)

        plan = Plan(
            home=serving.home, runs=serving.runs, offers=serving.offers, pool_for=serving.pool_for,
            worker=_worker_of(serving, reread), listener=serving.listener, num_workers=section.workers,
            allow_unverified=section.allow_unverified, drain_s=section.caps.drain_s, answer_s=section.caps.answer_s,
            on_event=told,
        )  # fmt: skip
        server = Server(plan)
        async with _figures(serving, server, told):
            await server.run()


# ---- what is looked at


def _check_files(section: ServingSection) -> None:
    tls = section.tls
    if tls.cert and tls.key:
        tls_context(Path(tls.cert), Path(tls.key))
    for hook in section.webhooks:
        check_hook(hook)
    files = [section.limits.url_file, section.store.url_file, *(each.key_file for each in section.models)]
    for path in filter(None, files):
        check_private(Path(path))


def _found(wanted: Wanted, runs: Path) -> Offered | None:
    """The artefact behind a name, whole and proven; None for a URL that stands for none."""
    if wanted.folder is None and wanted.url:
        return None
    folder = wanted.folder or Registry(runs).open(Registry(runs).resolve(wanted.label))
    return None if wanted.url else Offered(wanted.name, folder, verify(folder))


def _offer(wanted: Wanted) -> Offer:
    if not wanted.url:
        return Offer(wanted.name, wanted.label or str(wanted.folder))
    spec = EngineSpec(
        None, url=wanted.url, name=wanted.remote or wanted.name,
        key_file=Path(wanted.key_file) if wanted.key_file else None,
    )  # fmt: skip
    return Offer(wanted.name, wanted.url, PoolPlan(f"upstream-{wanted.name}", "upstream", spec), wanted.folder)


def _knobs(section: ServingSection) -> Knobs:
    return Knobs(
        engine=section.engine if section.engine != "upstream" else "auto", python=section.program or "",
        context=section.context or 0, num_slots=section.slots or 0, num_replicas=section.replicas,
    )  # fmt: skip


def _told(wanted: Wanted, found: Offered | None, choices: Sequence[Choice]) -> Told:
    target = wanted.url or wanted.label or str(wanted.folder)
    if found is None:
        return Told(wanted.name, target, "url", "", "upstream", say("serve.why_url"))
    choice = next(each for each in choices if wanted.name in each.names)
    verdict = next(each for each in choice.verdicts if each.driver == choice.plan.driver)
    return Told(
        wanted.name, target, found.manifest.kind, found.manifest.digest[:12], choice.plan.driver,
        "; ".join(verdict.pros),
    )  # fmt: skip


class BaseFinder:
    """Where an adapter's base lies: beside the artefact (as a bundle lays it), or where this machine keeps models. Its
    files are hashed: an adapter on another base answers nonsense, fluently."""

    def __init__(self, home: Path) -> None:
        self._cache = home / "bases"

    def find(self, folder: Path, manifest: Manifest) -> Path:
        base = self._folder(folder, manifest)
        if manifest.kind in GGUF_ADAPTERS:
            return base_file(manifest, folder, base, self._cache)
        assert manifest.kind in PEFT_ADAPTERS, "whole models have no base beside them"
        return base

    def _folder(self, folder: Path, manifest: Manifest) -> Path:
        facts = manifest.base
        beside = folder.parent / BASES
        for place in sorted(beside.iterdir()) if beside.is_dir() else ():
            if place.is_dir() and _digest(place) == facts["digest"]:
                return place
        try:
            base = find_base(
                facts["name"], revision=facts.get("revision"), hub=facts.get("hub", "huggingface"), is_offline=True
            )
        except (HubError, ModelError) as error:
            raise RunError(
                "serve.no_base", where=str(folder), given=facts["name"], beside=str(beside), said=error.text
            ) from error
        if (given := _digest(base)) != facts["digest"]:
            raise RunError(
                "serve.other_base", where=str(folder), given=given[:12], expected=str(facts["digest"])[:12],
                place=str(base),
            )  # fmt: skip
        return base


def _digest(folder: Path) -> str:
    try:
        return known_digest(folder)
    except (ModelError, OSError):
        return "-"


def _keys(section: ServingSection, home: Path, *, makes_key: bool) -> tuple[int, tuple[Key, str] | None]:
    """How many keys are good now, and a first one where that was asked for and there was none. Opening the store shows
    that it is there; where it is, is written down for `danlu keys`."""
    url = store_url(section)
    if url:
        write_private(home / URL, f"{url}\n".encode())
    elif (home / URL).exists():
        (home / URL).unlink()
    store, now = open_store(home, url), time.time()
    try:
        book = KeyBook(store, open_pepper(store, pepper_of(section, home)))
        num = sum(sealed.key.is_good(now) for sealed in book.all())
        return (num, None) if num or not makes_key else (1, book.create("first", now=now))
    finally:
        store.close()


def _notes(section: ServingSection, num_keys: int) -> list[str]:
    notes = []
    if not num_keys:
        notes.append(say("serve.note_no_keys"))
    if section.plain_http and not is_loopback(section.host) and section.tls.cert is None:
        notes.append(say("serve.note_plain", host=section.host))
    if section.metrics_port and not is_loopback(section.metrics_host):
        notes.append(say("serve.note_metrics", host=section.metrics_host, port=section.metrics_port))
    return notes


# ---- around the server


def _worker_of(serving: Serving, reread: Callable[[], ServingSection] | None) -> Callable[[str, int, Path], Command]:
    """How workers are started: each reload reads the settings anew, and a wrong one leaves the old workers be."""
    first = [serving.section]

    def command(name: str, fd: int, line: Path) -> Command:
        section = first[0]
        if reread is not None:
            try:
                section = reread()
                _check_files(section)
            except DanluError as error:
                raise EngineError("serve.bad_reload", said=error.text) from error
        settings = Settings(
            str(serving.home), serving.url, own_hosts(section.host, section.hosts), section.workers,
            section.model_dump(mode="json"),
        )  # fmt: skip
        argv = [sys.executable, "-m", "danlu.serving.worker", "--name", name, "--fd", str(fd), "--line", str(line)]
        return Command(argv, {}, "", settings.to_line())

    return command


Tell = Callable[[str, Mapping[str, Any]], None]


@contextlib.asynccontextmanager
async def _surroundings(serving: Serving) -> AsyncIterator[Tell]:
    """The server's own log, its books, and webhooks."""
    log = RequestLog(serving.home / "logs" / "server.jsonl")
    store = open_store(serving.home, store_url(serving.section))
    books = Bookkeeper(
        serving.home, store, failed=lambda fault: log.event("store_away", said=str(fault)),
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
    return name in ("engine", "reloaded") or (name == "refused" and facts.get("deed") in ("reload", "follow"))


@contextlib.asynccontextmanager
async def _figures(serving: Serving, server: Server, told: Tell) -> AsyncIterator[None]:
    """Prometheus' port, and the eye on workers' counters. A default port that another server has is no fault."""
    section = serving.section
    overview = Overview(server, Path(section.tls.cert) if section.tls.cert else None)
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
