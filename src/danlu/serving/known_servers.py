"""Servers that this account has a key for: a folder a server, with its key and how it proves that it is the one.

A key goes to the server it was given for and to nobody who happens to answer at its address (Unsloth Studio sent its
users' keys to whatever listened on the port). Over https the certificate is the proof: an authority's, or the very one
that was seen first. Over plain http, on this machine, the server answers a challenge that only it can: it was told
once what the answers are made of (`verifier`), over a request that bore the key.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import shutil
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import EngineError
from danlu.engines.wire import DeclinedError, TransientError, Wire
from danlu.openai.address import Address
from danlu.serving.bind import is_loopback
from danlu.serving.keys import Pepper, id_of
from danlu.serving.private import write_private

IDENTITY, VERIFIER = "/identity", "/v1/identity"
"""Anybody may challenge; what answers are made of is told to a key alone."""
SERVERS = Path(".config") / "danlu" / "servers"
"""Below the account's home."""
KEY, CERT, NOTE = "key", "server.pem", "server.json"
TIMEOUT_S = 10.0


def verifier_of(pepper: Pepper, key_id: str) -> str:
    """What the server's answers to challenges for this key are made of; hex. Not a secret that opens anything."""
    return pepper.seal(f"identity of the server to {key_id}").hex()


def proof_of(verifier: str, nonce: str) -> str:
    return hmac.new(bytes.fromhex(verifier), nonce.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Known:
    """A server that has proven itself just now."""

    origin: str
    key_file: Path
    ca_file: Path | None
    """The one certificate that is believed; None: the system's authorities, or no encryption at all."""
    is_new: bool
    fingerprint: str = ""


class KnownServers:
    """`KnownServers(Path.home() / SERVERS)`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place_of(self, origin: str) -> Path:
        return self.folder / hashlib.sha256(origin.encode()).hexdigest()[:24]

    def meet(self, url: str, *, key: str = "", plain_http: bool = False) -> Known:
        """Let the server prove who it is, before any key goes there. With `key` one is stored for it. EngineError where
        it is another one than before, or nobody has a key for it."""
        address = Address.parse(url)
        origin = origin_of(address)
        place = self.place_of(origin)
        if not key and not (place / KEY).is_file():
            raise EngineError("serve.no_key_for", where=origin, given=origin)
        if address.scheme == "http":
            if not is_loopback(address.host) and not plain_http:
                raise EngineError("serve.plain_chat", where=origin, given=origin)
            return self._meet_plain(address, origin, place, key)
        return self._meet_tls(address, origin, place, key)

    def remember(self, url: str, key: str, verifier: str) -> None:
        """Of a server on this machine that was started by this account: nothing has to be asked."""
        origin = origin_of(Address.parse(url))
        self._store(self.place_of(origin), origin, key, {"verifier": verifier})

    def forget(self, url: str) -> None:
        shutil.rmtree(self.place_of(origin_of(Address.parse(url))), ignore_errors=True)

    # ---- plain http: a challenge

    def _meet_plain(self, address: Address, origin: str, place: Path, key: str) -> Known:
        note = _note(place)
        told = key or _read(place / KEY)
        is_new = "verifier" not in note
        if is_new:
            self._asked(address, f"{IDENTITY}?key={id_of(told)}&nonce={secrets.token_hex(16)}")  # is it one of ours?
            note = {"verifier": self._verifier(address, told)}
        elif id_of(told) != id_of(
            _read(place / KEY)
        ):  # another key at a known server: it first proves itself by the old
            self._challenge(address, origin, id_of(_read(place / KEY)), note["verifier"])
            note = {"verifier": self._verifier(address, told)}
        self._challenge(address, origin, id_of(told), note["verifier"])
        if key:
            self._store(place, origin, key, note)
        return Known(origin, place / KEY, None, is_new)

    def _challenge(self, address: Address, origin: str, key_id: str, verifier: str) -> None:
        nonce = secrets.token_hex(32)
        said = self._asked(address, f"{IDENTITY}?key={key_id}&nonce={nonce}")
        if not hmac.compare_digest(str(said.get("proof", "")), proof_of(verifier, nonce)):
            raise EngineError("serve.other_server", where=origin, given=origin)

    def _verifier(self, address: Address, key: str) -> str:
        wire = Wire(_root(address), key=key, timeout_s=TIMEOUT_S)
        try:
            verifier = orjson.loads(wire.post(VERIFIER, b"{}"))["verifier"]
            bytes.fromhex(verifier)
        except (TransientError, DeclinedError, orjson.JSONDecodeError, KeyError, TypeError, ValueError) as fault:
            raise EngineError("serve.not_danlu", where=str(address), said=str(fault)[:200]) from fault
        return str(verifier)

    def _asked(self, address: Address, path: str) -> dict[str, Any]:
        """What it says of itself; no key is sent."""
        try:
            said = orjson.loads(Wire(_root(address), timeout_s=TIMEOUT_S).get(path))
        except TransientError as fault:
            raise EngineError("serve.nobody", where=str(address), said=fault.reason) from fault
        except (DeclinedError, EngineError, orjson.JSONDecodeError) as fault:
            raise EngineError("serve.not_danlu", where=str(address), said=str(fault)[:200]) from fault
        if not isinstance(said, dict) or said.get("server") != "danlu":
            raise EngineError("serve.not_danlu", where=str(address), said=str(said)[:200])
        return said

    # ---- https: the certificate

    def _meet_tls(self, address: Address, origin: str, place: Path, key: str) -> Known:
        shown, is_vouched = _certificate(address)
        fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(shown)).hexdigest()
        pinned = _read(place / CERT) if (place / CERT).is_file() else ""
        is_new = not (place / NOTE).is_file()
        if not is_new and not is_vouched and pinned != shown:
            raise EngineError("serve.other_server", where=origin, given=origin)
        if key:
            self._store(place, origin, key, {}, cert="" if is_vouched else shown)
        ca_file = None if is_vouched else place / CERT
        return Known(origin, place / KEY, ca_file, is_new, fingerprint)

    # ---- the folder

    def _store(self, place: Path, origin: str, key: str, note: dict[str, str], cert: str = "") -> None:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.chmod(0o700)
        write_private(place / KEY, f"{key}\n".encode())
        if cert:
            write_private(place / CERT, cert.encode())
        else:
            (place / CERT).unlink(missing_ok=True)
        write_private(place / NOTE, orjson.dumps({"origin": origin, **note}) + b"\n")


def origin_of(address: Address) -> str:
    port = address.port or (443 if address.scheme == "https" else 80)
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{address.scheme}://{host}:{port}"


def _root(address: Address) -> Address:
    return Address(address.scheme, address.host, address.port, "")


def _certificate(address: Address) -> tuple[str, bool]:
    """What is shown (PEM), and whether an authority of this system vouches for it and the name."""
    for is_strict in (True, False):
        context = ssl.create_default_context()
        if not is_strict:  # to look at, nothing is sent through it; what was pinned is checked again by who sends
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            with (
                socket.create_connection((address.host, address.port or 443), timeout=TIMEOUT_S) as plain,
                context.wrap_socket(plain, server_hostname=address.host) as wrapped,
            ):
                shown = wrapped.getpeercert(binary_form=True)
                assert shown is not None, "a TLS server shows a certificate"
                return ssl.DER_cert_to_PEM_cert(shown), is_strict
        except ssl.SSLCertVerificationError:
            continue
        except OSError as fault:
            raise EngineError("serve.nobody", where=str(address), said=str(fault)) from fault
    raise EngineError("serve.nobody", where=str(address), said="TLS")


def _note(place: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, orjson.JSONDecodeError):
        note = orjson.loads((place / NOTE).read_bytes())
        return note if isinstance(note, dict) else {}
    return {}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() + ("\n" if path.name == CERT else "")
