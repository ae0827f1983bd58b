"""An artefact to a model hub: only what passed its proof, only where asked to, into a private repository unless said
otherwise, and read back afterwards: every file must lie there with the manifest's digest.

Transport is the hubs' own clients (`huggingface_hub`, `modelscope_hub`), which go on where a broken-off upload ended.
"""

from __future__ import annotations

import contextlib
import functools
import io
import urllib.parse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from danlu.core.errors import ExportError, HubError
from danlu.core.files import sha256_file
from danlu.core.messages import listed, say
from danlu.core.progress import Progress, Silent
from danlu.exports.verify import verify
from danlu.model.hub import CACHE, ENDPOINTS, REVISIONS, Hub
from danlu.recipe.exports import PushSection
from danlu.run.artifact import NAME

CLIENTS: dict[Hub, str] = {"huggingface": "huggingface_hub", "modelscope": "modelscope_hub"}
"""Packages."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Pushed:
    """Where an artefact lies now. `digest` names its content, `revision` is the hub's name for the state after it."""

    hub: str
    repo: str
    url: str
    is_private: bool
    revision: str
    digest: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Remote(Protocol):
    """A repository on a hub, by the hub's client."""

    def make(self, *, is_private: bool) -> None:
        """Make it where it is not yet."""
        ...

    def is_private(self) -> bool: ...

    def send(self, folder: Path, message: str) -> str:
        """All files of a folder; the revision after it."""
        ...

    def digests(self) -> dict[str, str]:
        """sha256 of the files that lie there, "" of those whose digest the hub does not tell."""
        ...


def push(
    folder: Path,
    section: PushSection,
    *,
    progress: Progress | None = None,
    cache: Path = CACHE,
    token: str | None = None,
) -> Pushed:
    """Send an artefact's folder. ExportError when it did not pass; HubError when the hub refuses, or holds something
    else afterwards."""
    progress = progress or Silent()
    manifest = verify(folder)
    if manifest.parity["verdict"] != "pass":
        raise ExportError("push.not_proven", where=str(folder), verdict=manifest.parity["verdict"])
    endpoint = (section.endpoint or ENDPOINTS[section.hub]).rstrip("/")
    _check_endpoint(endpoint)
    secret = token if token is not None else read_token(section.hub, cache)
    remote = _open(section.hub, section.repo, endpoint, secret)
    progress.start(say("push.sending", name=manifest.name, repo=section.repo), 3)
    remote.make(is_private=section.private)
    _check_private(remote, section)
    progress.advance()
    revision = remote.send(folder, f"{manifest.name}: {manifest.kind} {manifest.digest[:16]}")
    _check_private(remote, section)
    progress.advance()
    _check_sent(folder, manifest.files | {NAME: sha256_file(folder / NAME)}, remote.digests(), section.repo)
    progress.advance()
    progress.finish()
    url = f"{endpoint}/{'models/' if section.hub == 'modelscope' else ''}{section.repo}"
    return Pushed(section.hub, section.repo, url, section.private, revision, manifest.digest)


def _check_private(remote: Remote, section: PushSection) -> None:
    """Before anything is sent, and after: a client may make a repository that has vanished anew, as it likes."""
    if section.private and not remote.is_private():
        raise HubError("push.is_public", where="exports.push.private", repo=section.repo)


def _check_sent(folder: Path, files: dict[str, str], there: dict[str, str], repo: str) -> None:
    """Names always, content where the hub tells digests: of large files, which are the weights."""
    wrong = [name for name, digest in files.items() if name not in there or there[name] not in ("", digest)]
    if wrong:
        raise HubError("push.differs", where=str(folder), repo=repo, files=listed(sorted(wrong)[:5]))


def _check_endpoint(endpoint: str) -> None:
    """A token travels with each request: in the clear only within this machine. The address is told in events and
    reports, so nothing secret may stand in it."""
    parts = urllib.parse.urlsplit(endpoint)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise HubError("push.secret_address", where="exports.push.endpoint", given=parts.hostname)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise HubError("push.in_the_clear", where="exports.push.endpoint", given=endpoint)


def token_file(hub: Hub, cache: Path = CACHE) -> Path:
    return cache.expanduser() / f"{hub}.token"


def read_token(hub: Hub, cache: Path) -> str:
    """One line that fits a header; what a client says of one that does not would quote it."""
    path = token_file(hub, cache)
    token = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    if not token:
        raise HubError("push.no_token", where="exports.push", hub=hub, file=str(path))
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise HubError("push.bad_token", where=str(path), hub=hub)
    return token


def _open(hub: Hub, repo: str, endpoint: str, token: str) -> Remote:
    try:
        return HuggingFace(repo, endpoint, token) if hub == "huggingface" else ModelScope(repo, endpoint, token)
    except ImportError as error:
        raise HubError("push.needs_client", where="exports.push.hub", hub=hub, said=str(error)) from error


class HuggingFace:
    def __init__(self, repo: str, endpoint: str, token: str) -> None:
        import huggingface_hub.errors  # optional: the extra `push`

        self._repo, self._api = repo, huggingface_hub.HfApi(endpoint=endpoint, token=token)
        # its transport's faults and the system's; names that it will not take
        faults = (*huggingface_hub.errors.HfHubHTTPError.__bases__, ValueError)
        self._said = functools.partial(_said, repo, faults, token)

    def make(self, *, is_private: bool) -> None:
        with self._said():
            self._api.create_repo(self._repo, private=is_private, exist_ok=True)

    def is_private(self) -> bool:
        with self._said():
            return bool(self._api.repo_info(self._repo).private)

    def send(self, folder: Path, message: str) -> str:
        with self._said():
            sent = self._api.upload_folder(
                repo_id=self._repo, folder_path=folder, commit_message=message, delete_patterns="*"
            )
            return str(sent.oid)

    def digests(self) -> dict[str, str]:
        with self._said():
            files = self._api.repo_info(self._repo, files_metadata=True).siblings or []
        return {file.rfilename: file.lfs.sha256 if file.lfs else "" for file in files}


class ModelScope:
    def __init__(self, repo: str, endpoint: str, token: str) -> None:
        import modelscope_hub.errors  # optional: the extra `push`

        self._repo, self._api = repo, modelscope_hub.HubApi(endpoint=endpoint, token=token)
        self._said = functools.partial(_said, repo, (modelscope_hub.errors.HubError, OSError, ValueError), token)

    def make(self, *, is_private: bool) -> None:
        with self._said():
            if not self._api.repo_exists(self._repo, "model"):
                self._api.create_repo(self._repo, "model", visibility="private" if is_private else "public")

    def is_private(self) -> bool:
        with self._said():
            visibility = self._api.get_repo(self._repo, "model").visibility
        return getattr(visibility, "name", "") == "PRIVATE"  # what it does not tell counts as public

    def send(self, folder: Path, message: str) -> str:
        with self._said():
            self._api.upload_folder(
                self._repo, "model", folder, commit_message=message, disable_tqdm=True, sync_remote_repo=True,
                use_cache=False,
            )  # fmt: skip
        return REVISIONS["modelscope"]

    def digests(self) -> dict[str, str]:
        with self._said():
            files = self._api.list_repo_files(self._repo, "model", recursive=True)
        return {str(file.path): str(file.sha256 or "") for file in files if file.type != "tree"}


@contextlib.contextmanager
def _said(repo: str, faults: tuple[type[BaseException], ...], token: str) -> Iterator[None]:
    """A client's exception as ours, with what the hub said; the exception itself holds the request and its token, and
    is let go. What a client prints is not for our users."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    except faults as error:
        said = " ".join(str(error).split()).replace(token, "***")  # a hub, or what stands between, may tell it back
        raise HubError("push.refused", where=repo, said=said[:300]) from None
