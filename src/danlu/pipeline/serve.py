"""Serving: everything is checked before anything starts, and what was found is told before anybody is let in.

`prepare_serving` opens artefacts through their door, finds bases, chooses engines (`serve_look.py`), looks at address,
certificate, keys and stores, and takes the port; `check_serving` looks only. `run_server` then lives until it is told
to end. No torch: engines are processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from danlu.core.errors import RunError
from danlu.core.messages import say
from danlu.pipeline.serve_around import figures, surroundings
from danlu.pipeline.serve_look import Serving, await_store, check_files, count_keys, keys_there, look, notes_of
from danlu.pipeline.serve_reload import Reread, plan_of
from danlu.pipeline.serve_targets import Wanted, read_targets
from danlu.recipe.serving import ServingSection
from danlu.run.run import Run
from danlu.serving.bind import address_text, check_bind, is_loopback, listen, own_hosts
from danlu.serving.control import is_running, refuse_second
from danlu.serving.keys import Pepper
from danlu.serving.known_servers import KnownServers, verifier_of
from danlu.serving.server import Server
from danlu.serving.settings import HOME, check_packages, pepper_of


def prepare_serving(
    wanted: Sequence[Wanted],
    section: ServingSection,
    runs: Path,
    *,
    makes_key: bool = False,
    account: Path | None = None,
    tell: Callable[[str], None] = lambda note: None,
) -> Serving:
    """Look at everything. A DanluError says what is wrong, before a process was started. `makes_key`: make a first key
    where there is none and only this machine is served. `account`: where `danlu chat` of this account finds it. `tell`
    hears of what has to be waited for: a database that starts with the machine may come a little later than we do."""
    check_packages()
    home = runs.resolve() / HOME
    refuse_second(home)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_files(section)
    looked = look(wanted, section, runs, home)
    await_store(section, home, tell=tell)
    num_keys, first = count_keys(section, home, makes_key=makes_key and is_loopback(section.host))
    has_tls = section.tls.cert is not None
    check_bind(section.host, num_keys=num_keys, has_tls=has_tls, plain_http=section.plain_http)
    listener = listen(section.host, section.port)
    url = address_text(section.host, listener.getsockname()[1], has_tls=has_tls, hosts=section.hosts)
    if first is not None and account is not None:
        KnownServers(account).remember(url, first[1], verifier_of(Pepper.open(pepper_of(section, home)), first[0].id))
    return Serving(
        section, home, runs.resolve(), url, own_hosts(section.host, section.hosts), listener, looked.offers,
        looked.choices, looked.models, looked.pool_for, num_keys, first[1] if first else "",
        [*looked.notes, *notes_of(section, num_keys)],
    )  # fmt: skip


def check_serving(wanted: Sequence[Wanted], section: ServingSection, runs: Path) -> Serving:
    """The same look, and nothing is kept, made or waited for: no key, no word of where the store is. A server that runs
    on this home goes on undisturbed, with the port that it holds."""
    check_packages()
    home = runs.resolve() / HOME
    check_files(section)
    looked = look(wanted, section, runs, home)
    num_keys = keys_there(section, home)
    has_tls = section.tls.cert is not None
    check_bind(section.host, num_keys=num_keys, has_tls=has_tls, plain_http=section.plain_http)
    notes = [*looked.notes, *notes_of(section, num_keys)]
    try:
        listener = listen(section.host, section.port)
    except RunError as taken:
        if taken.key != "serve.port_taken" or not is_running(home):
            raise
        listener = listen(section.host, 0)
    if is_running(home):
        notes.append(say("serve.note_beside", home=str(home)))
    port = section.port or listener.getsockname()[1]
    url = address_text(section.host, port, has_tls=has_tls, hosts=section.hosts)
    return Serving(
        section, home, runs.resolve(), url, own_hosts(section.host, section.hosts), listener, looked.offers,
        looked.choices, looked.models, looked.pool_for, num_keys, "", notes,
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
    reread: Reread | None = None,
    on_event: Callable[[str, Mapping[str, Any]], None] = lambda name, facts: None,
) -> None:
    """Until SIGTERM or SIGINT. `reread` gives models and settings anew at a reload; `on_event` is told what happens."""
    async with surroundings(serving) as tell:

        def told(name: str, facts: Mapping[str, Any]) -> None:
            tell(name, facts)
            on_event(name, facts)

        server = Server(plan_of(serving, told, reread))
        try:
            async with figures(serving, server, told):
                await server.run()
        finally:
            server.plan.listener.close()  # another than at the start, where a reload moved it
