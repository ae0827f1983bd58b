"""Where the server may listen. 175,108 model servers stood open on the internet in January 2026 (SentinelLABS, Censys),
most of them because a container's address was said in place of this machine's: so beyond this machine it listens only
when a key exists and the way to it is encrypted, or when somebody said in writing that it is not.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket

from danlu.core.errors import RunError

BACKLOG = 2048


def check_bind(host: str, *, num_keys: int, has_tls: bool, plain_http: bool) -> None:
    """RunError where this address would open the server to others without keys or in plain text."""
    if is_loopback(host):
        return
    if num_keys == 0:
        raise RunError("serve.no_keys", where="serving.host", given=host)
    if not has_tls and not plain_http:
        raise RunError("serve.no_tls", where="serving.host", given=host)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches it. A name is what it resolves to, all of it."""
    try:
        return _is_own(ipaddress.ip_address(host.strip("[]").partition("%")[0]))
    except ValueError:
        pass
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise RunError("serve.bad_host", where="serving.host", given=host, said=str(error)) from error
    return bool(found) and all(_is_own(ipaddress.ip_address(str(address).partition("%")[0])) for address in found)


def listen(host: str, port: int) -> socket.socket:
    """One listening socket for all workers, to be handed down to them. RunError where the port is taken."""
    bare = host.strip("[]")
    try:
        entries = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise RunError("serve.bad_host", where="serving.host", given=host, said=str(error)) from error
    family, kind, protocol, _, address = sorted(entries, key=lambda entry: entry[0] != socket.AF_INET)[0]
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        key = "serve.port_taken" if error.errno == errno.EADDRINUSE else "serve.cannot_listen"
        raise RunError(key, where="serving.port", host=host, port=port, said=error.strerror or str(error)) from error
    opened.setblocking(False)
    opened.set_inheritable(True)
    return opened


def own_hosts(host: str, hosts: tuple[str, ...]) -> tuple[str, ...]:
    """What a Host header may say. Named ones count alone; else the address and, on the loopback, its usual names. An
    address for all interfaces without names takes this machine's own names and addresses."""
    if hosts:
        return hosts
    bare = host.strip("[]").lower()
    if is_loopback(host):
        return tuple(dict.fromkeys((bare, "localhost", "127.0.0.1", "::1")))
    if bare not in ("0.0.0.0", "::"):  # noqa: S104 - is compared, not bound
        return (bare,)
    own = socket.gethostname().lower()
    names = [own, own.partition(".")[0], "localhost", "127.0.0.1", "::1"]
    with contextlib.suppress(OSError):
        names += [str(entry[4][0]) for entry in socket.getaddrinfo(own, None, type=socket.SOCK_STREAM)]
    return tuple(dict.fromkeys(names))


def address_text(host: str, port: int, *, has_tls: bool, hosts: tuple[str, ...] = ()) -> str:
    """The base URL as clients say it: by the first of the server's names, where it has any."""
    bare = (hosts[0] if hosts else host).strip("[]")
    if bare in ("0.0.0.0", "::"):  # noqa: S104 - is compared, not bound
        bare = socket.gethostname()
    return f"http{'s' if has_tls else ''}://{f'[{bare}]' if ':' in bare else bare}:{port}"


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
