"""`danlu chat URL`: talk to a served model. The key goes to the server that it was stored for, and to no other."""

from __future__ import annotations

from pathlib import Path

import orjson

from danlu.cli.chat import MAX_NEW_TOKENS, Table, converse
from danlu.cli.voice import Voice
from danlu.core.errors import EngineError
from danlu.core.messages import listed, say
from danlu.core.shelf import nearest
from danlu.engines.engine import Sampling
from danlu.engines.remote import Endpoint, RemoteEngine
from danlu.engines.wire import DeclinedError, TransientError, Wire
from danlu.openai.address import Address
from danlu.serving.known_servers import SERVERS, Known, KnownServers
from danlu.serving.private import read_private


def call(
    url: str,
    voice: Voice,
    *,
    model: str = "",
    key_file: Path | None = None,
    forget: bool = False,
    plain_http: bool = False,
) -> None:
    """A conversation as with a run. `key_file` stores a key for this server; `forget` takes it away again."""
    servers = KnownServers(Path.home() / SERVERS)
    if forget:
        servers.forget(url)
        voice.say(say("serve.forgotten", url=url))
        voice.result({"url": url, "forgotten": True})
        return
    known = servers.meet(url, key=read_private(key_file) if key_file else "", plain_http=plain_http)
    if known.is_new:
        told = "serve.new_server" if known.fingerprint else "serve.new_server_here"
        voice.progress.note(say(told, url=known.origin, fingerprint=_groups(known.fingerprint)))
    name = _model(known, model)
    endpoint = Endpoint(f"{known.origin}/v1", name, key_file=known.key_file, ca_file=known.ca_file, num_retries=2)
    converse(Table(voice, RemoteEngine(endpoint), None, Sampling(max_new_tokens=MAX_NEW_TOKENS)))


def _model(known: Known, wished: str) -> str:
    """The one that was named, else the first that this key may ask. EngineError names them."""
    key = known.key_file.read_text(encoding="utf-8").strip()
    wire = Wire(Address.parse(f"{known.origin}/v1"), key=key, timeout_s=20.0, ca_file=known.ca_file)
    try:
        names = [str(model["id"]) for model in orjson.loads(wire.get("/models"))["data"]]
    except (TransientError, DeclinedError, orjson.JSONDecodeError, KeyError, TypeError) as fault:
        raise EngineError("serve.nobody", where=known.origin, said=str(fault)[:200]) from fault
    if wished in names or (names and not wished):
        return wished or names[0]
    raise EngineError(
        "serve.not_a_model",
        where=known.origin,
        given=wished or "-",
        known=listed(names) or "-",
        nearest=nearest(wished, names),
    )


def _groups(fingerprint: str) -> str:
    """As people compare them."""
    return ":".join(fingerprint[at : at + 4] for at in range(0, len(fingerprint), 4))
