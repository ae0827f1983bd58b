"""Webhooks: who is told of what happened. An event is signed, sent again while that may help, and never waited for.

What runs did and what the registry was told stands in the audit log beside the runs, whoever wrote it; serving's own
events stand in an outbox beside them (outbox.py). Both are followed from where the last delivery ended: a receiver that
was away, or a server that was killed, misses nothing. So an event comes at least once, and in order; one that comes
twice has the same id. A receiver that cannot be reached is waited for, for days; one that is there and cannot do
anything with an event is asked a few times, and then the next one has its turn.

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
from typing import Any, Literal
from urllib.parse import urlsplit

import orjson

from danlu.core.errors import RunError
from danlu.core.files import read_json, write_json
from danlu.recipe.serving import WebhookSection
from danlu.serving.outbox import MOST_BYTES, Outbox
from danlu.serving.private import read_private

CURSORS = "webhooks.json"
OUTBOX = "outbox.jsonl"
TIMEOUT_S = 10.0
WAITS_S = (1.0, 5.0, 30.0, 120.0, 600.0)
"""Before each further try, give or take a fifth."""
POLL_S = 1.0
HELD_S = 3 * 86400.0
"""So long a receiver may be away."""
MOST_WAITING = 100
"""Events in memory for one receiver; all others wait on disk."""
MOST_LINE = 2**20
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


Source = Literal["audit", "outbox"]


class TemporaryError(Exception):
    """Worth another try."""


class AwayError(TemporaryError):
    """Nobody is there: it is tried again until somebody is."""


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
    source: Source = "audit"
    offset: int = -1
    """Where its source goes on behind it."""

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "time": self.time, "kind": self.kind, "event": self.event, "facts": self.facts}

    def body(self) -> bytes:
        return orjson.dumps(self.to_json(), default=str)


class Webhook:
    """One receiver, with a thread of its own: a slow one holds up nobody else."""

    def __init__(
        self,
        section: WebhookSection,
        *,
        delivered: Callable[[Webhook, Event], None],
        told: Callable[..., None],
        waits_s: Sequence[float] = WAITS_S,
        held_s: float = HELD_S,
    ) -> None:
        self.section, self.name = section, hashlib.sha256(section.url.encode()).hexdigest()[:16]
        self._secret = read_private(Path(section.key_file)).encode()
        self._delivered, self._told, self._waits, self._held_s = delivered, told, waits_s, held_s
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
            return False
        return True

    def close(self, *, patience_s: float = 3.0) -> None:
        """What waits is tried once more, for so long; what is left then is sent after the next start."""
        with contextlib.suppress(queue.Full):
            self._events.put_nowait(None)
        self._thread.join(patience_s)
        self._stop.set()

    def lost(self, what: str, said: str) -> None:
        self._told("webhook_lost", url=_shown(self.section.url), lost=what, said=said[:200])

    def _send_all(self) -> None:
        while (event := self._events.get()) is not None and not self._stop.is_set():
            if self._send(event):
                self._delivered(self, event)

    def _send(self, event: Event) -> bool:
        """Try until it is there, or never will be. False where we end before that."""
        body, began, waits = event.body(), time.monotonic(), iter(self._waits)
        while True:
            wait_s = next(waits, None)
            try:
                send(self.section, self._secret, event, body)
                return True
            except AwayError as fault:
                is_over, said = time.monotonic() - began > self._held_s, str(fault)
                wait_s = wait_s if wait_s is not None else self._waits[-1]
            except TemporaryError as fault:
                is_over, said = wait_s is None, str(fault)
            except FinalError as fault:
                is_over, said = True, str(fault)
            if is_over or wait_s is None:
                self.lost(event.event, said)
                return True
            if self._stop.wait(wait_s * random.uniform(0.8, 1.2)):  # noqa: S311 - spreads tries
                return False


class Webhooks:
    """All receivers, and who follows the audit log and the outbox. `told` is told, as a log's event, what could not be
    delivered."""

    def __init__(
        self,
        sections: Sequence[WebhookSection],
        *,
        audit: Path,
        home: Path,
        told: Callable[..., None],
        waits_s: Sequence[float] = WAITS_S,
        poll_s: float = POLL_S,
        held_s: float = HELD_S,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._audit, self._cursors, self._hooks = audit, home / CURSORS, list[Webhook]()
        self._turn, self._wake, self._is_ending = threading.Lock(), threading.Event(), False
        self._poll_s = poll_s
        self._thread = threading.Thread(target=self._follow, name="webhooks", daemon=True)
        if not sections:
            return
        self._outbox = Outbox(home / OUTBOX, most_bytes=most_bytes)
        self._hooks = [
            Webhook(section, delivered=self._keep_place, told=told, waits_s=waits_s, held_s=held_s)
            for section in sections
        ]
        known: dict[str, int] = read_json(self._cursors) if self._cursors.is_file() else {}
        ends: dict[Source, int] = {"audit": audit.stat().st_size if audit.is_file() else 0, "outbox": self._outbox.end}
        self._places = {
            _place(hook, source): min(known.get(_place(hook, source), end), end)
            for hook in self._hooks
            for source, end in ends.items()
        }
        """Behind what was delivered; `_heard`: behind what waits in memory for it."""
        self._heard = dict(self._places)
        write_json(self._cursors, self._places)
        self._thread.start()

    def tell(self, event: str, **facts: Any) -> None:
        """An event of serving's own: in the outbox when this returns, and on the disk before anybody hears of it."""
        if not self._hooks:
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        told = Event(secrets.token_hex(16), stamp, "serving", f"serving.{event}", facts)
        readers = {
            hook: self._places[_place(hook, "outbox")] for hook in self._hooks if "serving" in hook.section.events
        }
        try:
            lost = self._outbox.add(told.to_json(), {hook.name: place for hook, place in readers.items()})
        except OSError as fault:
            lost = {hook.name: 1 for hook in readers}
            said = fault.strerror or str(fault)
        else:
            said = "too many wait for it"
        for hook in readers:
            if num := lost.get(hook.name):
                hook.lost(f"{num} of serving", said)
        self._wake.set()

    def close(self) -> None:
        """What was told until now is tried once more. A second call does nothing."""
        if not self._hooks or self._is_ending:
            return
        self._is_ending = True
        self._wake.set()
        self._thread.join()
        for hook in self._hooks:
            hook.close()
        self._outbox.close()

    def _follow(self) -> None:
        while True:
            self._wake.wait(self._poll_s)
            self._wake.clear()
            is_last = self._is_ending
            end = self._outbox.end
            with contextlib.suppress(OSError):  # a disk that fails keeps nobody from being told
                self._outbox.sync()
            for hook in self._hooks:
                with contextlib.suppress(OSError):
                    self._read_audit(hook)
                self._read_outbox(hook, end)
            if is_last:
                return

    def _read_audit(self, hook: Webhook) -> None:
        if not self._audit.is_file():
            return
        place = _place(hook, "audit")
        with self._audit.open("rb") as file:
            file.seek(self._heard[place])
            while (line := file.readline(MOST_LINE)).endswith(b"\n"):
                event = event_of(line, file.tell())
                if event is not None and not hook.tell(event):
                    return  # full: from here again, later
                self._heard[place] = file.tell()

    def _read_outbox(self, hook: Webhook, end: int) -> None:
        place = _place(hook, "outbox")
        if self._heard[place] >= end:
            return
        for told, behind in self._outbox.read(self._heard[place]):
            if behind > end or not hook.tell(Event(**told, source="outbox", offset=behind)):
                return
            self._heard[place] = behind

    def _keep_place(self, hook: Webhook, event: Event) -> None:
        with self._turn, contextlib.suppress(OSError):
            self._places[_place(hook, event.source)] = event.offset
            write_json(self._cursors, self._places)


def _place(hook: Webhook, source: Source) -> str:
    """What its place in a source is called."""
    return hook.name if source == "audit" else f"{hook.name}.{source}"


def event_of(line: bytes, offset: int) -> Event | None:
    """What a line of the audit log says to others."""
    try:
        entry = orjson.loads(line)
        action, facts = str(entry["action"]), dict(entry["object"])
        kind = {"registry": "registry", "keys": "serving", "serving": "serving"}.get(action.partition(".")[0], "run")
        return Event(
            str(entry["hash"]), str(entry["time"]), kind, action if kind != "run" else f"run.{action}",
            facts | {"actor": entry["actor"], "reason": entry["reason"]}, offset=offset,
        )  # fmt: skip
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


# ---- one try


def sign(secret: bytes, stamp: str, body: bytes) -> str:
    return "v1=" + hmac.new(secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def send(section: WebhookSection, secret: bytes, event: Event, body: bytes) -> None:
    """POST it once. AwayError, TemporaryError, FinalError."""
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
        raise AwayError(str(fault) or type(fault).__name__) from fault
    if status in (429, 502, 503, 504):
        raise AwayError(f"HTTP {status}")
    if status in (408, 425) or status >= 500:
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
