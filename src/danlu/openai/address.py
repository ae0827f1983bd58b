"""A server's address, checked once for all who send anything to one. What two parsers read differently is refused: an
address that names a user, hides a line break, or holds what no URL holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from danlu.core.errors import EngineError

_PASSWORD = re.compile(r"//.*@", re.DOTALL)
_ODD = frozenset(' \\"<>')


@dataclass(frozen=True, slots=True)
class Address:
    """A checked base URL, such as https://host/v1."""

    scheme: str
    host: str
    port: int | None
    path: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """EngineError unless it is plain http(s)://host[:port][/path]."""
        try:
            parts = urlsplit(url)
            port = parts.port
            (parts.hostname or "").encode("idna")
        except ValueError as fault:  # a port, an IPv6 address or a host name that is none
            raise _bad(url) from fault
        is_plain = not (parts.username or parts.password or parts.query or parts.fragment) and port != 0
        is_clean = url.isprintable() and not _ODD & set(url) and parts.path.isascii()
        if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain or not is_clean:
            raise _bad(url)
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{f':{self.port}' if self.port else ''}{self.path}"


def _bad(url: str) -> EngineError:
    return EngineError("engine.bad_url", given=_PASSWORD.sub("//…@", url)[:200])
