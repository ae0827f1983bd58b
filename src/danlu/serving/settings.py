"""What a gateway worker is told by whoever starts it, and what it makes of the recipe's chapter."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import RunError
from danlu.recipe.serving import ServingSection
from danlu.serving.caps import Caps
from danlu.serving.keys import PEPPER
from danlu.serving.private import read_private

HOME = "serving"
"""Below the runs: keys, books, logs and sockets of the server that serves them."""
PACKAGES = ("uvicorn", "httptools", "aiohttp")
"""Of the extra `serve`: workers are made of them, and engines are asked with the last."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker is told: no secrets, only where they lie."""

    home: str
    url: str
    """As clients on this machine say it."""
    hosts: tuple[str, ...]
    num_workers: int
    section: dict[str, Any]

    def to_line(self) -> str:
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_line(cls, line: bytes) -> Settings:
        value = orjson.loads(line)
        return cls(value["home"], value["url"], tuple(value["hosts"]), value["num_workers"], value["section"])


def check_packages() -> None:
    """RunError that names what is missing, before a worker dies of it."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError("serve.no_extra", where="danlu serve", given=", ".join(missing))


def caps_of(section: ServingSection, hosts: tuple[str, ...]) -> Caps:
    caps, usual = section.caps, Caps()
    return replace(
        usual, hosts=hosts, origins=section.origins, most_body_bytes=caps.body_bytes,
        most_answer_tokens=caps.max_tokens, answer_tokens=min(usual.answer_tokens, caps.max_tokens),
        first_s=min(usual.first_s, caps.answer_s), between_s=min(usual.between_s, caps.answer_s), whole_s=caps.answer_s,
    )  # fmt: skip


def pepper_of(section: ServingSection, home: Path) -> Path:
    return Path(section.store.pepper_file) if section.store.pepper_file else home / PEPPER


def store_url(section: ServingSection) -> str:
    """ "" for the SQLite file of the home."""
    if section.store.kind != "postgres" or section.store.url_file is None:
        return ""
    return read_private(Path(section.store.url_file))
