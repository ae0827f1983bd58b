"""What a teacher is told, in the language of the material. The texts lie in `assets/synthesis/prompts.json`.

Material is always fenced by a mark made of its own digest, which no text can hold about itself, and declared to be
data: what it says of instructions is not for the teacher.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources
from typing import Any

import orjson

from danlu.core.files import sha256_bytes
from danlu.data.language import Language
from danlu.data.sample import Message


@functools.cache
def _texts() -> dict[str, Any]:
    content = resources.files("danlu.assets").joinpath("synthesis", "prompts.json").read_bytes()
    texts: dict[str, Any] = orjson.loads(content)
    return texts


def told(spoken: Language, key: str, /, **values: object) -> str:
    """One prompt text with its `{names}` filled; other languages than Chinese are spoken to in English."""
    text = _texts()["zh" if spoken == "zh" else "en"][key]
    joined = "\n".join(text) if isinstance(text, list) else str(text)
    for name, value in values.items():
        joined = joined.replace("{" + name + "}", str(value))
    return joined


def fenced(text: str, *, label: str = "") -> str:
    """Material between marks that it cannot write itself."""
    mark = sha256_bytes(text.encode("utf-8", "backslashreplace"))[:16]
    return f"<<<{mark}{f' {label}' if label else ''}\n{text}\n{mark}>>>"


def messages(system: str, user: str, turns: Sequence[Message] = ()) -> tuple[Message, ...]:
    return (Message("system", system), *turns, Message("user", user))
