"""The Modelfile: which GGUF file, template, system prompt, stop tokens, sampling, context.

All sampling is written out: what is not named here Ollama fills with habits of its own (temperature 0.8, top_k 40,
top_p 0.9, repeat_penalty 1.1), which are not the model's.
"""

from __future__ import annotations

from typing import Any

from danlu.core.errors import ExportError
from danlu.core.messages import listed
from danlu.data.contract import Contract

_QUOTES = '"""'
_KEPT = "\t\n\r"
_PARAMETERS = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "repetition_penalty": "repeat_penalty"}
NEUTRAL: dict[str, float] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
"""What a setting is where the contract says nothing of it: it changes nothing."""


def write_modelfile(file_name: str, template: str, contract: Contract, *, context: int) -> str:
    """The text. ExportError when a text cannot stand between Ollama's quotes."""
    value = contract.value
    lines = [f"FROM ./{file_name}", "", f"TEMPLATE {_quoted(template, 'chat_template')}", ""]
    if value["system"]:
        lines += [f"SYSTEM {_quoted(value['system'], 'model.system')}", ""]
    for entry in value["stop"]:
        if entry["token"]:
            lines.append(f'PARAMETER stop "{entry["token"]}"')
    settings: dict[str, Any] = NEUTRAL | {key: item for key, item in value["sampling"].items() if key in NEUTRAL}
    lines += [f"PARAMETER {name} {settings[key]:g}" for key, name in _PARAMETERS.items()]
    return "\n".join([*lines, "PARAMETER min_p 0", f"PARAMETER num_ctx {context}"]) + "\n"


def _quoted(text: str, where: str) -> str:
    refuse_unsaid(text, where)
    return f"{_QUOTES}{text}{_QUOTES}"


def refuse_unsaid(text: str, where: str) -> None:
    """ExportError where a text cannot stand in a Modelfile: quotes that would end it, and characters that Ollama drops
    without a word when it reads one (`strconv.IsPrint`: full-width and no-break spaces, joiners of emoji)."""
    if _QUOTES in text or text.endswith('"'):
        raise ExportError("ollama.quotes", where=where)
    if lost := sorted({char for char in text if not char.isprintable() and char not in _KEPT}):
        raise ExportError("ollama.unprintable", where=where, given=listed(f"U+{ord(char):04X}" for char in lost))
