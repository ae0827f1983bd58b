"""Files of secrets: nobody but their owner reads them, and they are there whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from pathlib import Path

from danlu.core.errors import RunError
from danlu.core.files import sync_folder


def is_exposed(found: os.stat_result) -> bool:
    """Whether others than its owner may read it. One that belongs to somebody else may be read by our group: so
    clusters hand secrets to programs that are not root."""
    if sys.platform == "win32":
        return False
    return bool(found.st_mode & (0o077 if found.st_uid == os.geteuid() else 0o007))


def check_private(path: Path) -> None:
    """RunError where a file of secrets is exposed, or not there."""
    try:
        found = path.stat()
    except OSError as error:
        raise RunError("serve.no_file", where=str(path), given=str(path)) from error
    if is_exposed(found):
        raise RunError("serve.open_file", where=str(path), mode=f"{stat.S_IMODE(found.st_mode):04o}")


def read_private(path: Path) -> str:
    """The one line of such a file."""
    check_private(path)
    text = path.read_text(encoding="utf-8").strip()
    if not text or "\n" in text or not text.isprintable():
        raise RunError("serve.bad_secret", where=str(path))
    return text


def write_private(path: Path, content: bytes) -> None:
    """In place of what was there; at no moment does anybody else read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(path.parent)
