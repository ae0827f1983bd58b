"""The server's certificate, looked at before anything starts and read anew at each reload; and files of secrets.

Encryption itself is Python's.
"""

from __future__ import annotations

import datetime
import os
import ssl
import stat
import sys
from pathlib import Path

from danlu.core.errors import RunError

WARN_DAYS = 14


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


def check_private(path: Path) -> None:
    """RunError where others than its owner may read a file of secrets, or it is not there. One that belongs to somebody
    else may be read by our group: so clusters hand secrets to programs that are not root."""
    try:
        found = path.stat()
    except OSError as error:
        raise RunError("serve.no_file", where=str(path), given=str(path)) from error
    mode = stat.S_IMODE(found.st_mode)
    if sys.platform != "win32" and mode & (0o077 if found.st_uid == os.geteuid() else 0o007):
        raise RunError("serve.open_file", where=str(path), mode=f"{mode:04o}")


def read_private(path: Path) -> str:
    """The one line of a file that only its owner reads."""
    check_private(path)
    text = path.read_text(encoding="utf-8").strip()
    if not text or "\n" in text or not text.isprintable():
        raise RunError("serve.bad_secret", where=str(path))
    return text


def _no_password() -> str:
    raise ValueError("the key is locked with a password; nobody is there to type it")


def _day(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
