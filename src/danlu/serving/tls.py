"""The server's certificate, looked at before anything starts and read anew at each reload.

Encryption itself is Python's.
"""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from danlu.core.errors import RunError
from danlu.serving.private import check_private


def tls_context(cert: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 and newer. RunError where the files are missing, do not belong together, or the key lies open."""
    check_private(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except FileNotFoundError as error:
        raise RunError("serve.no_file", where="serving.tls", given=f"{cert}, {key}") from error
    except (ssl.SSLError, OSError, ValueError) as error:
        raise RunError("serve.bad_cert", where=str(cert), said=str(error)[:200]) from error
    ends = expires(cert)
    if ends and ends <= datetime.datetime.now(datetime.UTC).timestamp():
        raise RunError("serve.cert_over", where=str(cert), given=_day(ends))
    return context


def expires(cert: Path) -> float:
    """When it ends, in seconds since 1970; 0 where this Python cannot tell."""
    try:
        found = ssl._ssl._test_decode_cert(str(cert))  # type: ignore[attr-defined]  # the only reader in the library
    except (AttributeError, ssl.SSLError, OSError):
        return 0.0
    return float(ssl.cert_time_to_seconds(found["notAfter"]))


def _no_password() -> str:
    raise ValueError("the key is locked with a password; nobody is there to type it")


def _day(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
