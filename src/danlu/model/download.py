"""One file over HTTP: resumed, checksummed, atomic. Stdlib only, torch-free; knows no hub's layout (that is `hub.py`).

A broken transfer leaves `.NAME.part`, which the next try continues by a Range request. A file takes its name only
after size and checksum are right. Redirects go to http(s) only, and a token never follows to another host.
"""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from danlu.core.errors import HubError
from danlu.core.files import sync_folder
from danlu.core.progress import Progress

BLOCK_BYTES = 1024 * 1024
TIMEOUT_S = 30.0
HEADERS = {"User-Agent": "danlu", "Accept-Encoding": "identity"}
PAUSES_S = (0.5, 2.0, 5.0)  # before each further try


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a hub. `sha256` of the content, or `blob_sha1` as git counts it; at least the size is known."""

    name: str
    url: str
    num_bytes: int
    sha256: str = ""
    blob_sha1: str = ""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow to http(s) only; leave the token behind when the host changes (CDNs need none)."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise HubError("model.hub_unsafe_redirect", url=req.full_url, given=newurl)
        follow = super().redirect_request(req, fp, code, msg, headers, newurl)
        if follow is not None and urllib.parse.urlsplit(newurl).netloc != urllib.parse.urlsplit(req.full_url).netloc:
            follow.remove_header("Authorization")
        return follow

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: http.client.HTTPMessage) -> Any:
        # urllib itself would raise an HTTPError for a strange scheme before asking us.
        target = urllib.parse.urljoin(req.full_url, headers.get("location", ""))
        if urllib.parse.urlsplit(target).scheme not in ("http", "https"):
            raise HubError("model.hub_unsafe_redirect", url=req.full_url, given=target)
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def open_url(url: str, *, token: str = "", start: int = 0) -> http.client.HTTPResponse:
    """GET, from byte `start` on. Raises urllib's errors; http(s) only."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise HubError("model.hub_unsafe_redirect", url=url, given=url)
    request = urllib.request.Request(url, headers=HEADERS)  # noqa: S310 - the scheme is checked
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if start:
        request.add_header("Range", f"bytes={start}-")
    opener = urllib.request.build_opener(_Redirects())
    response: http.client.HTTPResponse = opener.open(request, timeout=TIMEOUT_S)
    return response


def fetch(
    file: RemoteFile, folder: Path, *, token: str = "", progress: Progress, pause: Callable[[float], None] = time.sleep
) -> Path:
    """The file in `folder`, whole and right. Tries again after broken connections; a refusal is
    raised."""
    target, part = folder / file.name, folder / f".{file.name}.part"
    folder.mkdir(parents=True, exist_ok=True)
    for wait_s in (*PAUSES_S, None):
        try:
            _continue(file, part, token, progress)
            break
        except HubError:
            raise
        except urllib.error.HTTPError as error:
            is_busy = error.code == 429 or error.code >= 500
            if wait_s is None or not is_busy:
                raise
            pause(wait_s)
        except (OSError, http.client.HTTPException) as error:  # refused, reset, cut short, timed out
            if wait_s is None:
                raise HubError("model.hub_failed", url=file.url, why=str(error)) from error
            pause(wait_s)
    check(file, part)
    part.replace(target)
    sync_folder(folder)
    return target


def check(file: RemoteFile, path: Path) -> None:
    """Compare with what the hub announced; a wrong file is removed, so that the next run starts it anew."""
    given, expected = _digest(path, file), file.sha256 or file.blob_sha1 or f"{file.num_bytes} bytes"
    if given != expected:
        path.unlink()
        raise HubError("model.checksum", where=file.url, file=file.name, expected=expected, given=given)


def _continue(file: RemoteFile, part: Path, token: str, progress: Progress) -> None:
    """One try: from where the part ends to the end of the file."""
    have = part.stat().st_size if part.exists() else 0
    if have > file.num_bytes:
        part.unlink()
        have = 0
    if have == file.num_bytes and part.exists():
        progress.advance(have)
        return
    with open_url(file.url, token=token, start=have) as response:
        is_continued = response.status == 206 and _starts_at(response, have)
        with part.open("ab" if is_continued else "wb") as out:
            progress.advance(have if is_continued else 0)
            while block := response.read(BLOCK_BYTES):
                out.write(block)
                progress.advance(len(block))
    size = part.stat().st_size
    if size < file.num_bytes:
        raise http.client.IncompleteRead(b"", file.num_bytes - size)


def _starts_at(response: http.client.HTTPResponse, start: int) -> bool:
    """Content-Range: bytes START-END/ALL. A server that answers another range than asked for is not continued from."""
    return response.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0] == str(start)


def _digest(path: Path, file: RemoteFile) -> str:
    if file.sha256:
        hasher = hashlib.sha256()
    elif file.blob_sha1:
        # What git calls the file; only ever compared with the hub's own listing.
        hasher = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        return f"{path.stat().st_size} bytes"
    with path.open("rb") as content:
        while block := content.read(BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()
