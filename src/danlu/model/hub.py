"""Where `model.base` lies: a folder, the embedded base `ember`, or a model hub (Hugging Face, ModelScope), offline
first.

What was fetched once lies in `~/.cache/danlu/models/<hub>/<org>--<name>/<revision>` and is used from there without
asking the network. Only what a model needs is fetched: config, tokenizer, template, licence and safetensors.
Torch-free. Transport is `download.py`.
"""

from __future__ import annotations

import fnmatch
import http.client
import re
import urllib.error
import urllib.parse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import orjson

from danlu.core.errors import HubError, ModelError
from danlu.core.files import free_bytes, read_json, write_json
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.model.download import RemoteFile, fetch, open_url
from danlu.model.shards import INDEX, PICKLE_SUFFIXES, SINGLE, is_harmless

Hub = Literal["huggingface", "modelscope"]
EMBEDDED = "ember"
CACHE = Path("~/.cache/danlu")
ENDPOINTS: dict[Hub, str] = {"huggingface": "https://huggingface.co", "modelscope": "https://modelscope.cn"}
REVISIONS: dict[Hub, str] = {"huggingface": "main", "modelscope": "master"}
MARKER = ".danlu.json"
WANTED = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "merges.txt", "*.model", "*.tiktoken", "chat_template*", "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
SPARE_BYTES = 256 * 1024 * 1024  # left free beside the model
ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Repository:
    """A model on a hub, at a revision, by way of an endpoint."""

    hub: Hub
    id: str
    revision: str
    endpoint: str

    @property
    def page(self) -> str:
        return f"{self.endpoint}/{'models/' if self.hub == 'modelscope' else ''}{self.id}"


def find_base(
    base: str | Path,
    *,
    revision: str | None = None,
    hub: Hub = "huggingface",
    mirror: str | None = None,
    needs_weights: bool = True,
    progress: Progress | None = None,
    is_offline: bool = False,
    cache: Path = CACHE,
    free: Callable[[Path], int] = free_bytes,
) -> Path:
    """The folder of a base on this machine, fetched first where need be. Raises ModelError or HubError.

    With `is_offline` the network is never touched: what is not here raises HubError.
    """
    if base == EMBEDDED:
        return embedded_folder()
    folder = Path(base).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ModelError("model.base_is_file", where="model.base", given=str(base))
    if not isinstance(base, str) or not ID.fullmatch(base) or ".." in base:
        raise HubError("model.base_missing", where="model.base", given=str(base))
    repository = Repository(hub, base, revision or REVISIONS[hub], (mirror or ENDPOINTS[hub]).rstrip("/"))
    cache = cache.expanduser()
    kept = cache / "models" / hub / base.replace("/", "--") / urllib.parse.quote(repository.revision, safe="")
    if not is_complete(kept, needs_weights):
        if is_offline:
            raise HubError("model.not_here", where="model.base", given=base, folder=str(kept))
        download(repository, kept, needs_weights=needs_weights, progress=progress or Silent(), cache=cache, free=free)
    return kept


def embedded_folder() -> Path:
    """The base that ships with the package."""
    folder = Path(str(resources.files("danlu.assets"))) / EMBEDDED
    if not (folder / "config.json").is_file():
        raise ModelError("model.no_ember", where="model.base", folder=str(folder))
    return folder


def is_complete(folder: Path, needs_weights: bool) -> bool:
    """All files that the marker lists are there in full length; the marker is written after the last of them."""
    if not (folder / MARKER).is_file():
        return False
    marker = read_json(folder / MARKER)
    sizes_fit = all(
        (folder / f["name"]).is_file() and (folder / f["name"]).stat().st_size == f["num_bytes"]
        for f in marker["files"]
    )
    return sizes_fit and (marker["has_weights"] or not needs_weights)


def download(
    repository: Repository, folder: Path, *, needs_weights: bool, progress: Progress, cache: Path,
    free: Callable[[Path], int],
) -> None:  # fmt: skip
    """Everything that is missing, each file whole; the marker last."""
    token_file = cache / f"{repository.hub}.token"
    token = token_file.read_text(encoding="utf-8").strip() if token_file.is_file() else ""
    try:
        listed = list_files(repository, token)
        wanted = [file for file in listed if _is_wanted(file.name)]
        if needs_weights:
            wanted += choose_weights(repository, listed, folder, token)
        missing = [file for file in wanted if not _is_there(folder / file.name, file.num_bytes)]
        _check_space(folder, missing, free)
        progress.start(say("model.downloading", repo=repository.id), sum(file.num_bytes for file in missing))
        for file in missing:
            fetch(file, folder, token=token, progress=progress)
        progress.finish()
    except urllib.error.HTTPError as error:
        raise _refusal(repository, error, token_file) from error
    marker = {"hub": repository.hub, "id": repository.id, "revision": repository.revision, "has_weights": needs_weights}
    write_json(folder / MARKER, marker | {"files": [asdict(file) for file in wanted]})


def list_files(repository: Repository, token: str) -> list[RemoteFile]:
    """The repository's top-level files with sizes and checksums."""
    revision = urllib.parse.quote(repository.revision, safe="")
    if repository.hub == "huggingface":
        answer = _ask(f"{repository.endpoint}/api/models/{repository.id}/revision/{revision}?blobs=true", token)
    else:
        query = urllib.parse.urlencode({"Revision": repository.revision, "Recursive": "true"})
        answer = _ask(f"{repository.endpoint}/api/v1/models/{repository.id}/repo/files?{query}", token)
    try:
        files = _huggingface(answer) if repository.hub == "huggingface" else _modelscope(answer)
    except (KeyError, TypeError, ValueError) as error:
        raise HubError("model.hub_bad_answer", url=repository.page, why=repr(error)) from error
    for name, *_ in files:
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise HubError("model.hub_unsafe_name", where=repository.page, given=name)
    return [
        RemoteFile(name, f"{repository.page}/resolve/{revision}/{urllib.parse.quote(name)}", size, sha256, blob_sha1)
        for name, size, sha256, blob_sha1 in files
        if "/" not in name and "\\" not in name
    ]


def choose_weights(repository: Repository, listed: list[RemoteFile], folder: Path, token: str) -> list[RemoteFile]:
    """The shards that belong together: those of the index, else the single file, else all safetensors."""
    by_name = {file.name: file for file in listed}
    if INDEX in by_name:
        index = fetch(by_name[INDEX], folder, token=token, progress=Silent())
        names = sorted(set(read_json(index)["weight_map"].values()))
        if absent := [name for name in names if name not in by_name]:
            raise ModelError("model.shard_missing", where=f"{repository.page}/{INDEX}", file=absent[0])
        return [by_name[INDEX], *(by_name[name] for name in names)]
    if SINGLE in by_name:
        return [by_name[SINGLE]]
    tensors = [
        file for file in listed if file.name.endswith(".safetensors") and not file.name.startswith("consolidated")
    ]
    if tensors:
        return tensors
    pickles = [file.name for file in listed if file.name.endswith(PICKLE_SUFFIXES) and not is_harmless(file.name)]
    if pickles:
        raise ModelError("model.pickle", where=f"{repository.page}/{pickles[0]}")
    raise ModelError("model.no_weights", where=repository.page, expected=f"{SINGLE} / {INDEX}")


Listed = tuple[str, int, str, str]
"""Name, bytes, sha256, git blob sha1."""


def _huggingface(answer: Any) -> list[Listed]:
    return [
        (item["rfilename"], item["size"], (item.get("lfs") or {}).get("sha256", ""), item.get("blobId", ""))
        for item in answer["siblings"]
    ]


def _modelscope(answer: Any) -> list[Listed]:
    if not answer.get("Success", True):
        raise ValueError(answer.get("Message", "no success"))
    files = answer["Data"]["Files"]
    return [(item["Path"], item["Size"], item.get("Sha256", ""), "") for item in files if item["Type"] == "blob"]


def _ask(url: str, token: str) -> Any:
    try:
        with open_url(url, token=token) as response:
            return orjson.loads(response.read())
    except urllib.error.HTTPError:
        raise
    except orjson.JSONDecodeError as error:
        raise HubError("model.hub_bad_answer", url=url, why=str(error)) from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, HubError):
            raise
        raise HubError("model.hub_failed", url=url, why=str(error)) from error


def _refusal(repository: Repository, error: urllib.error.HTTPError, token_file: Path) -> HubError:
    """What an HTTP status means to a person. Hugging Face answers 401 for what does not exist, and says so in a
    header."""
    code = error.headers.get("X-Error-Code", "")
    if error.code == 404 or code in ("RepoNotFound", "RevisionNotFound", "EntryNotFound"):
        return HubError(
            "model.not_found", where="model.base", repo=repository.id, revision=repository.revision, hub=repository.hub
        )
    if error.code in (401, 403):
        return HubError(
            "model.gated", where="model.base", repo=repository.id, status=error.code, token_file=str(token_file)
        )
    return HubError("model.hub_status", where="model.base", url=error.url, status=error.code)


def _is_wanted(name: str) -> bool:
    is_safe = not name.endswith((*PICKLE_SUFFIXES, ".py", ".safetensors"))
    return is_safe and any(fnmatch.fnmatchcase(name, pattern) for pattern in WANTED)


def _is_there(path: Path, num_bytes: int) -> bool:
    """A file takes its name only after its checksum was right, so size is proof enough here."""
    return path.is_file() and path.stat().st_size == num_bytes


def _check_space(folder: Path, missing: list[RemoteFile], free: Callable[[Path], int]) -> None:
    begun = sum(p.stat().st_size for f in missing if (p := folder / f".{f.name}.part").is_file())
    needed = sum(file.num_bytes for file in missing) - begun + SPARE_BYTES
    if missing and free(folder) < needed:
        raise HubError("model.disk_full", where=str(folder), needed_bytes=needed, free_bytes=free(folder))
