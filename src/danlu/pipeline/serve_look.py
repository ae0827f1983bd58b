"""What would be served, before anything starts: artefacts through their door, their bases, an engine for each; and who
may ask. No torch, and no process."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from danlu.core.errors import HubError, ModelError, RunError
from danlu.core.messages import listed, say
from danlu.exports.verify import verify
from danlu.model.hub import find_base
from danlu.model.shards import known_digest
from danlu.pipeline.serve_targets import Wanted
from danlu.recipe.serving import ServingSection
from danlu.run.artifact import Manifest
from danlu.run.registry import Registry
from danlu.serving.bind import is_loopback
from danlu.serving.choosing import Choice, Knobs, Machine, Offered, choose, notes_apart
from danlu.serving.drivers.about import GGUF_ADAPTERS, PEFT_ADAPTERS
from danlu.serving.drivers.base_gguf import base_file
from danlu.serving.drivers.driver import EngineSpec
from danlu.serving.keys import Key, KeyBook, open_pepper
from danlu.serving.pool_plan import PoolPlan
from danlu.serving.private import check_private, write_private
from danlu.serving.rollout import Offer
from danlu.serving.settings import pepper_of, store_url
from danlu.serving.store import DATABASE, URL, open_store
from danlu.serving.tls import tls_context
from danlu.serving.webhooks import check_hook

STORE_WAIT_S = 60.0
"""A database that starts with this machine is there by then; one that is not will not come by itself."""
FIRST_PAUSE_S, MOST_PAUSE_S = 0.5, 8.0
BASES = "bases"
"""Beside an artefact, as a bundle lays it; and in the server's home, where GGUF files of bases are written."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as it will be served, for people."""

    model: str
    target: str
    kind: str
    digest: str
    driver: str
    why: str


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found of the models that are wanted."""

    offers: tuple[Offer, ...]
    choices: tuple[Choice, ...]
    models: tuple[ServedModel, ...]
    pool_for: Callable[[Path, Manifest], PoolPlan]
    notes: tuple[str, ...]


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
    models: tuple[ServedModel, ...]
    pool_for: Callable[[Path, Manifest], PoolPlan]
    num_keys: int
    first_key: str = ""
    """A fresh key's credential, told once; "" where there were keys, or nobody is there to read it."""
    notes: list[str] = field(default_factory=list)

    def close(self) -> None:
        self.listener.close()


def look(wanted: Sequence[Wanted], section: ServingSection, runs: Path, home: Path) -> Looked:
    """Every artefact is hashed and its proof read; an engine is chosen for each, and its base found. A DanluError says
    what is wrong."""
    if not wanted:
        raise RunError("serve.nothing", where="danlu serve")
    if section.engine == "upstream" and (own := [each.name for each in wanted if not each.url]):
        raise RunError("serve.upstream_only", where="serving.engine", given=listed(own))
    found = [_found(each, runs) for each in wanted]
    bases, machine, knobs = BaseFinder(home), Machine.look(python=section.program or ""), _knobs(section)
    offered = [one for one in found if one is not None]
    choices = tuple(choose(offered, machine, bases.find, knobs)) if offered else ()

    def pool_for(folder: Path, manifest: Manifest) -> PoolPlan:
        return choose([Offered(manifest.name, folder, manifest)], machine, bases.find, knobs)[0].plan

    models = tuple(_served(each, one, choices) for each, one in zip(wanted, found, strict=True))
    return Looked(tuple(_offer(each) for each in wanted), choices, models, pool_for, tuple(notes_apart(offered)))


def check_files(section: ServingSection) -> None:
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


def _served(wanted: Wanted, found: Offered | None, choices: Sequence[Choice]) -> ServedModel:
    target = wanted.url or wanted.label or str(wanted.folder)
    if found is None:
        return ServedModel(wanted.name, target, "url", "", "upstream", say("serve.why_url"))
    choice = next(each for each in choices if wanted.name in each.names)
    verdict = next(each for each in choice.verdicts if each.driver == choice.plan.driver)
    return ServedModel(
        wanted.name, target, found.manifest.kind, found.manifest.digest[:12], choice.plan.driver,
        say("drivers.separator").join(verdict.pros),
    )  # fmt: skip


class BaseFinder:
    """Where an adapter's base lies: beside the artefact (as a bundle lays it), or where this machine keeps models. Its
    files are hashed: an adapter on another base answers nonsense, fluently."""

    def __init__(self, home: Path) -> None:
        self._cache = home / BASES

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


def await_store(
    section: ServingSection, home: Path, *, tell: Callable[[str], None], within_s: float = STORE_WAIT_S
) -> None:
    """Until the store is there: asked again after half a second, one, two … eight. RunError where it does not come."""
    url, pause_s, began = store_url(section), FIRST_PAUSE_S, time.monotonic()
    while url:
        try:
            open_store(home, url).close()
            return
        except RunError as away:
            if away.key != "keys.store_away":
                raise
            waited_s = time.monotonic() - began
            if waited_s + pause_s > within_s:
                raise RunError("serve.no_store", where=away.where, seconds=round(waited_s), said=away.text) from away
            if pause_s == FIRST_PAUSE_S:
                tell(say("serve.await_store", where=away.where, seconds=round(within_s)))
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, MOST_PAUSE_S)


def keys_there(section: ServingSection, home: Path) -> int:
    """How many keys are good now; 0 where no server has been yet, and nothing is made for one."""
    url = store_url(section)
    if not url and not (home / DATABASE).is_file():
        return 0
    store, now = open_store(home, url), time.time()
    try:
        if store.fact("pepper") is None:
            return 0
        book = KeyBook(store, open_pepper(store, pepper_of(section, home)))
        return sum(sealed.key.is_good(now) for sealed in book.all())
    finally:
        store.close()


def count_keys(section: ServingSection, home: Path, *, makes_key: bool) -> tuple[int, tuple[Key, str] | None]:
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


def notes_of(section: ServingSection, num_keys: int) -> list[str]:
    notes = []
    if not num_keys:
        notes.append(say("serve.note_no_keys"))
    if section.plain_http and not is_loopback(section.host) and section.tls.cert is None:
        notes.append(say("serve.note_plain", host=section.host))
    if section.metrics_port and not is_loopback(section.metrics_host):
        notes.append(say("serve.note_metrics", host=section.metrics_host, port=section.metrics_port))
    return notes
