"""Driver `upstream`: a server that is not ours and speaks OpenAI's protocol, Ollama among them. Nothing is started.

Where it is, says the operator; clients cannot. http(s) only, no name or password in the URL, redirects are not followed
and no proxy of the environment is asked. Its key lies in a file that only its owner (or our own group) reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from danlu.core.errors import EngineError
from danlu.openai.address import Address
from danlu.run.artifact import Manifest
from danlu.serving.drivers.about import About
from danlu.serving.drivers.driver import Can, Command, EngineSpec, endpoint, ids_of
from danlu.serving.drivers.requests import ask, is_good
from danlu.serving.private import read_private


class UpstreamDriver:
    name = "upstream"
    can = Can(
        loads_adapters=False, embeddings=True, adapter_embeddings=True, dimensions=True, tools=True, forced_calls=True,
        json_schema=True, logprobs=True, reads_control=True,
    )  # fmt: skip

    about = About()

    def is_here(self, python: str) -> bool:
        return True

    def missing(self) -> str:
        return ""

    def against(self, folder: Path, manifest: Manifest) -> list[str]:
        return []

    def reasons(self, device: str, *, has_adapters: bool) -> tuple[list[str], list[str]]:
        return [], []

    def command(self, spec: EngineSpec, folder: Path) -> Command | None:
        return None

    def where(self, spec: EngineSpec) -> tuple[str, str]:
        return str(Address.parse(spec.url)), read_key(spec.key_file) if spec.key_file else ""

    def engine_names(self, spec: EngineSpec) -> dict[str, str]:
        return {"": spec.name}

    def address_body(self, body: dict[str, Any], engine_name: str) -> dict[str, Any]:
        return body | {"model": engine_name}

    async def is_ready(self, address: str, secret: str) -> bool:
        return await is_good(address, endpoint(address, "/models"), secret)

    async def load(self, address: str, secret: str, name: str, folder: Path) -> str:
        raise EngineError("drivers.fixed_adapters", given=name)

    async def drop(self, address: str, secret: str, engine_name: str) -> None:
        """It is not ours to change."""

    async def prompt_ids(
        self, address: str, secret: str, body: Mapping[str, Any], engine_name: str
    ) -> list[int] | None:
        """vLLM and danlu's own show them beside `/v1`; others have no such door, or another one."""
        root = urlsplit(address)._replace(path="").geturl()
        kept = {key: body[key] for key in ("messages", "tools", "chat_template_kwargs") if key in body}
        asked = kept | {"model": engine_name, "add_generation_prompt": True}
        reply = await ask(address, f"{root}/tokenize", secret, asked)
        # llama.cpp's door of that name reads ready text, and makes nothing of turns
        return (ids_of(reply.value, address) or None) if reply.is_good else None


def read_key(path: Path) -> str:
    """A key that fits into a header: plain ASCII, without a space."""
    key = read_private(path)
    if not key.isascii() or " " in key:
        raise EngineError("drivers.bad_key", where=str(path))
    return key
