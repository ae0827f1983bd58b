"""A model hub on loopback that takes uploads, in the languages of Hugging Face's and ModelScope's own clients."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from http_kit import Quiet, listening

LARGE = 2000
"""Files of at least so many bytes, and weights, go the way of large files."""


@dataclass
class Hub:
    """What lies there, and what was asked."""

    repos: dict[str, bool] = field(default_factory=dict)
    """Name to whether it is private."""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path, Authorization."""
    url: str = ""
    status: int = 0
    """Refuse every commit with it, and tell the token back, as some proxies do."""
    damages: bool = False
    remakes: bool = False
    """A repository that is made a second time is another one, as public as it is asked to be."""


def is_large(name: str, size: int) -> bool:
    return size >= LARGE or name.endswith((".safetensors", ".gguf"))


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()

    class Handler(Quiet):
        def answer(self, status: int, content: Any = b"", **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            super().answer(status, body, Content_Type="application/json", **headers)

        def content(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") == "chunked":
                content = b""
                while size := int(self.rfile.readline(), 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return content
            return super().content()

        def route(self) -> None:
            parts = urlsplit(self.path)
            path, query = unquote(parts.path), parse_qs(parts.query)
            hub.asked.append((self.command, path, self.headers.get("Authorization", "")))
            content = self.content()
            if path.startswith("/blob/"):
                hub.blobs[path.removeprefix("/blob/")] = content[:-1] + b"?" if hub.damages else content
                return self.answer(200, {"Code": 200, "Success": True})
            if path.startswith(("/api/v1/", "/openapi/")):
                return modelscope(self, hub, path, query, content)
            return huggingface(self, hub, path, query, content)

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = route  # noqa: N815

    with listening(Handler) as hub.url:
        yield hub


def huggingface(handler: Any, hub: Hub, path: str, query: dict[str, list[str]], content: bytes) -> None:
    told = (
        json.loads(content)
        if content[:1] in (b"{", b"[") and "\n" not in content.decode(errors="replace").strip()
        else {}
    )
    if path == "/api/repos/create":
        name = f"{told['organization']}/{told['name']}" if told.get("organization") else told["name"]
        if name in hub.repos:
            return handler.answer(409, {"error": "exists", "url": f"{hub.url}/{name}"})
        hub.repos[name] = bool(told.get("private") or told.get("visibility") == "private")
        hub.files[name] = {}
        return handler.answer(200, {"url": f"{hub.url}/{name}", "name": name})
    if path == "/api/validate-yaml":
        return handler.answer(200, {"errors": [], "warnings": []})
    if path.endswith("/info/lfs/objects/batch"):
        objects = [
            {"oid": each["oid"], "size": each["size"], "actions": {"upload": {"href": f"{hub.url}/blob/{each['oid']}"}}}
            for each in told["objects"]
        ]
        return handler.answer(200, {"transfer": "basic", "objects": objects})
    if not path.startswith("/api/models/"):
        return handler.answer(404, {"error": path})
    owner, name, *rest = path.removeprefix("/api/models/").split("/")
    repo = f"{owner}/{name}"
    if repo not in hub.repos:
        return handler.answer(404, {"error": "no repo"}, X_Error_Code="RepoNotFound")
    if rest[:1] == ["preupload"]:
        modes = [
            {"path": each["path"], "uploadMode": "lfs" if is_large(each["path"], each["size"]) else "regular",
             "shouldIgnore": False, "oid": None}
            for each in told["files"]
        ]  # fmt: skip
        return handler.answer(200, {"files": modes})
    if rest[:1] == ["commit"]:
        if hub.status:
            return handler.answer(hub.status, {"error": f"you may not: {handler.headers.get('Authorization')}"})
        for line in content.splitlines():
            step = json.loads(line)
            value = step["value"]
            if step["key"] == "file":
                hub.files[repo][value["path"]] = base64.b64decode(value["content"])
            elif step["key"] == "lfsFile":
                hub.files[repo][value["path"]] = hub.blobs[value["oid"]]
            elif step["key"] == "deletedFile":
                hub.files[repo].pop(value["path"])
        oid = hashlib.sha1(content).hexdigest()
        url = f"{hub.url}/{repo}/commit/{oid}"
        return handler.answer(200, {"commitUrl": url, "commitOid": oid, "success": True, "pullRequestUrl": None})
    files = hub.files[repo]
    if rest[:1] == ["tree"]:
        listed = [{"type": "file", "path": each, "size": len(body), "oid": "0" * 40} for each, body in files.items()]
        return handler.answer(200, listed)
    siblings = []
    for each, body in files.items():
        large = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 100}
        siblings.append(
            {"rfilename": each, "size": len(body), "blobId": "0" * 40}
            | ({"lfs": large} if is_large(each, len(body)) else {})
        )
    return handler.answer(
        200, {"id": repo, "modelId": repo, "sha": "abc", "private": hub.repos[repo], "siblings": siblings}
    )


def modelscope(handler: Any, hub: Hub, path: str, query: dict[str, list[str]], content: bytes) -> None:
    def told(data: Any) -> None:
        handler.answer(200, {"Code": 200, "Success": True, "Data": data})

    asked = json.loads(content) if content[:1] == b"{" else {}
    if path == "/api/v1/models" and handler.command == "POST":
        repo = f"{asked['Path']}/{asked['Name']}"
        if repo in hub.repos and not hub.remakes:
            return handler.answer(400, {"Code": 10010101001, "Success": False, "Message": "already exists"})
        hub.repos[repo], hub.files[repo] = asked["Visibility"] == 1, {}
        return told(asked)
    parts = path.removeprefix("/api/v1/").removeprefix("repos/").removeprefix("models/").split("/")
    repo, rest = "/".join(parts[:2]), parts[2:]
    if path.startswith("/openapi/") or repo not in hub.repos:
        return handler.answer(404, {"Code": 404, "Success": False, "Message": "no such repository"})
    if not rest:
        return told({"Path": parts[0], "Name": parts[1], "Visibility": 1 if hub.repos[repo] else 5})
    if rest[:2] == ["info", "lfs"]:
        missing = [
            {"oid": each["oid"], "actions": {"upload": {"href": f"{hub.url}/blob/{each['oid']}"}}}
            for each in asked["objects"]
        ]
        return told({"objects": missing})
    if rest[0] == "commit":
        if hub.status:
            return handler.answer(hub.status, {"Code": hub.status, "Success": False, "Message": "you may not"})
        for step in asked["actions"]:
            if step["action"] == "delete":
                hub.files[repo].pop(step["path"])
            elif step["type"] == "lfs":
                hub.files[repo][step["path"]] = hub.blobs[step["sha256"]]
            else:
                hub.files[repo][step["path"]] = base64.b64decode(step["content"])
        return told({"oid": hashlib.sha1(content).hexdigest()})
    if rest == ["file"] and handler.command == "DELETE":
        hub.files[repo].pop(query["FilePath"][0])
        return told({})
    listed = [
        {"Path": name, "Name": name.rpartition("/")[2], "Size": len(body), "Type": "blob",
         "Sha256": hashlib.sha256(body).hexdigest()}
        for name, body in hub.files[repo].items()
    ]  # fmt: skip
    return told({"Files": listed})
