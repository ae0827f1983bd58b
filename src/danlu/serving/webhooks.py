"""Webhooks: who is told of what happened. An event is signed, sent again while that may help, and never waited for.

What runs did and what the registry was told stands in the audit log beside the runs, whoever wrote it; it is followed
from where the last delivery ended, so a receiver that was away, or a server that was down, misses nothing of it.
Serving's own events are told as they happen and live in memory.

The receiver checks: X-Danlu-Signature is `v1=` and the hex HMAC-SHA256, under the secret, of X-Danlu-Time, a dot and
the body; the time is recent; X-Danlu-Delivery (the event's id) is new. Only addresses that an operator wrote down are
called, at an IP that was looked at and not in a private range unless said so; no redirect is followed.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import ipaddress
import queue
import random
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from danlu.core.errors import RunError
from danlu.core.files import read_json, write_json
from danlu.recipe.serving import WebhookSection
from danlu.serving.private import read_private

CURSORS = "webhooks.json"
TIMEOUT_S = 10.0
WAITS_S = (1.0, 5.0, 30.0, 120.0, 600.0)
"""Before each further try, give or take a fifth."""
POLL_S = 1.0
MOST_WAITING = 1000
MOST_LINE = 2**20
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class TemporaryError(Exception):
    """Worth another try."""


class FinalError(Exception):
    """The receiver does not want it, or may not be asked."""


@dataclass(frozen=True, slots=True)
class Event:
    """`id` stays the same over all tries. `facts` are names, numbers and digests, never what was asked or learnt."""

    id: str
    time: str
    kind: str
    """run, registry or serving."""
    event: str
    facts: dict[str, Any]
    offset: int = -1
    """Where the audit log goes on behind it; -1: it does not stand there."""

    def body(self) -> bytes:
        told = {"id": self.id, "time": self.time, "kind": self.kind, "event": self.event, "facts": self.facts}
        return orjson.dumps(told, default=str)


class Webhook:
    """One receiver, with a thread of its own: a slow one holds up nobody else."""

    def __init__(
        self,
        section: WebhookSection,
        *,
        delivered: Callable[[Webhook, Event], None],
        told: Callable[..., None],
        waits_s: Sequence[float] = WAITS_S,
    ) -> None:
        self.section, self.name = section, hashlib.sha256(section.url.encode()).hexdigest()[:16]
        self._secret = read_private(Path(section.key_file)).encode()
        self._delivered, self._told, self._waits = delivered, told, waits_s
        self._events: queue.Queue[Event | None] = queue.Queue(MOST_WAITING)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name=f"webhook {self.name}", daemon=True)
        self._thread.start()

    def tell(self, event: Event) -> bool:
        """Never waits; False where too many wait already."""
        if event.kind not in self.section.events:
            return True
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self._told("webhook_full", url=_shown(self.section.url), lost=event.event)
            return False
        return True

    def close(self, *, patience_s: float = 3.0) -> None:
        """What waits is tried once more, for so long."""
        with contextlib.suppress(queue.Full):
            self._events.put_nowait(None)
        self._thread.join(patience_s)
        self._stop.set()

    def _send_all(self) -> None:
        while (event := self._events.get()) is not None and not self._stop.is_set():
            self._send(event)

    def _send(self, event: Event) -> None:
        body = event.body()
        for wait_s in (*self._waits, None):
            try:
                send(self.section, self._secret, event, body)
            except TemporaryError as fault:
                if wait_s is None or self._stop.wait(wait_s * random.uniform(0.8, 1.2)):  # noqa: S311 - spreads tries
                    self._told("webhook_lost", url=_shown(self.section.url), lost=event.event, said=str(fault)[:200])
                    break
            except FinalError as fault:
                self._told("webhook_lost", url=_shown(self.section.url), lost=event.event, said=str(fault)[:200])
                break
            else:
                break
        if not self._stop.is_set():
            self._delivered(self, event)


class Webhooks:
    """All receivers, and who follows the audit log. `told` is told, as a log's event, what could not be delivered."""

    def __init__(
        self,
        sections: Sequence[WebhookSection],
        *,
        audit: Path,
        home: Path,
        told: Callable[..., None],
        waits_s: Sequence[float] = WAITS_S,
        poll_s: float = POLL_S,
    ) -> None:
        self._audit, self._cursors = audit, home / CURSORS
        self._turn = threading.Lock()
        end = audit.stat().st_size if audit.is_file() else 0
        known: dict[str, int] = read_json(self._cursors) if self._cursors.is_file() else {}
        self._hooks = [Webhook(section, delivered=self._keep_place, told=told, waits_s=waits_s) for section in sections]
        self._places = {hook.name: min(known.get(hook.name, end), end) for hook in self._hooks}
        self._heard = dict(self._places)
        self._stop, self._poll_s = threading.Event(), poll_s
        self._thread = threading.Thread(target=self._follow, name="webhooks", daemon=True)
        if self._hooks:
            write_json(self._cursors, self._places)
            self._thread.start()

    def tell(self, event: str, **facts: Any) -> None:
        """An event of serving's own."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        for hook in self._hooks:
            hook.tell(Event(secrets.token_hex(16), stamp, "serving", f"serving.{event}", facts))

    def close(self) -> None:
        self._stop.set()
        for hook in self._hooks:
            hook.close()

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_s):
            for hook in self._hooks:
                with contextlib.suppress(OSError):
                    self._read_on(hook)

    def _read_on(self, hook: Webhook) -> None:
        if not self._audit.is_file():
            return
        with self._audit.open("rb") as file:
            file.seek(self._heard[hook.name])
            while (line := file.readline(MOST_LINE)).endswith(b"\n"):
                event = event_of(line, file.tell())
                if event is not None and not hook.tell(event):
                    return  # full: from here again, later
                self._heard[hook.name] = file.tell()

    def _keep_place(self, hook: Webhook, event: Event) -> None:
        if event.offset < 0:
            return
        with self._turn, contextlib.suppress(OSError):
            self._places[hook.name] = event.offset
            write_json(self._cursors, self._places)


def event_of(line: bytes, offset: int) -> Event | None:
    """What a line of the audit log says to others."""
    try:
        entry = orjson.loads(line)
        action, facts = str(entry["action"]), dict(entry["object"])
        kind = {"registry": "registry", "keys": "serving", "serving": "serving"}.get(action.partition(".")[0], "run")
        return Event(
            str(entry["hash"]), str(entry["time"]), kind, action if kind != "run" else f"run.{action}",
            facts | {"actor": entry["actor"], "reason": entry["reason"]}, offset,
        )  # fmt: skip
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


# ---- one try


def sign(secret: bytes, stamp: str, body: bytes) -> str:
    return "v1=" + hmac.new(secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def send(section: WebhookSection, secret: bytes, event: Event, body: bytes) -> None:
    """POST it once. TemporaryError, FinalError."""
    parts = urlsplit(section.url)
    assert parts.hostname is not None, "the address was looked at when the hook was made"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    stamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json", "User-Agent": "danlu", "X-Danlu-Event": event.event,
        "X-Danlu-Delivery": event.id, "X-Danlu-Time": stamp, "X-Danlu-Signature": sign(secret, stamp, body),
    }  # fmt: skip
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        address = _address_of(parts.hostname, port, private=section.private)
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=TIMEOUT_S)
        with contextlib.closing(connection), socket.create_connection((address, port), timeout=TIMEOUT_S) as plain:
            connection.sock = plain
            if parts.scheme == "https":
                context = ssl.create_default_context()
                connection.sock = context.wrap_socket(plain, server_hostname=parts.hostname)
            connection.request("POST", path, body=body, headers=headers)
            status = connection.getresponse().status
    except ssl.SSLCertVerificationError as fault:
        raise FinalError(f"certificate: {fault.verify_message}") from fault
    except (OSError, http.client.HTTPException) as fault:
        raise TemporaryError(str(fault) or type(fault).__name__) from fault
    if status in (408, 425, 429) or status >= 500:
        raise TemporaryError(f"HTTP {status}")
    if not 200 <= status < 300:
        raise FinalError(f"HTTP {status}")


def check_hook(section: WebhookSection) -> None:
    """RunError where a hook can never work: no host, no secret, or plain text beyond the house."""
    try:
        parts = urlsplit(section.url)
        is_good = bool(parts.hostname) and not parts.username and (parts.port or 1) > 0
    except ValueError:
        is_good = False
    if not is_good:
        raise RunError("serve.hook_url", where="serving.webhooks.url", given=_shown(section.url))
    if parts.scheme == "http" and not section.private:
        raise RunError("serve.hook_plain", where="serving.webhooks.url", given=_shown(section.url))
    read_private(Path(section.key_file))


def _address_of(host: str, port: int, *, private: bool) -> str:
    """The address that is called: the one that was looked at, so that no second answer of a name server counts."""
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not private and (inner := [address for address in found if not is_public(address)]):
        raise FinalError(f"{inner[0]} is a private address; say private: true if that is meant")
    return found[0]


def is_public(text: str) -> bool:
    """Whether an address is one of the open internet, also where it carries an IPv4 address inside."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        teredo = address.teredo[1] if address.teredo else None
        inside = address.ipv4_mapped or address.sixtofour or teredo
        if address in _NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(str(inside))
    return address.is_global and not address.is_multicast


def _shown(url: str) -> str:
    """Without what may be a secret: Chinese chat tools carry one in the query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
