"""How an engine that reads calls out of answers is told to: by the way that the model's own template writes a call.

The names are those of `--tool-call-parser` of vLLM 0.32 (docs: features/tool_calling) and SGLang 0.5 (docs: advanced
features, tool parser). The template decides and not the family: a fine-tuned model writes calls as its template showed
them. Where it shows none that is known, tools are refused: their calls would reach clients as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from danlu.data.template_files import own_texts


@dataclass(frozen=True, slots=True)
class Form:
    """`marks`: all of them stand in a template that writes calls so. `parsers`: driver to its name for it."""

    marks: tuple[str, ...]
    parsers: Mapping[str, str]


FORMS = (
    Form(("<function=", "<parameter="), {"vllm": "qwen3_coder", "sglang": "qwen3_coder"}),
    Form(("<arg_key>", "<arg_value>"), {"vllm": "glm45", "sglang": "glm45"}),
    Form(("<|tool_calls_section_begin|>",), {"vllm": "kimi_k2", "sglang": "kimi_k2"}),
    Form(("<tool_call>",), {"vllm": "hermes", "sglang": "qwen25"}),  # Hermes, Qwen 2.5 and 3
    Form(("[TOOL_CALLS]",), {"vllm": "mistral", "sglang": "mistral"}),
    Form(("<|python_tag|>", '"parameters"'), {"vllm": "llama3_json", "sglang": "llama3"}),
)
"""The first that fits counts: some write more between the marks of others."""


def tool_parser(driver: str, folder: Path) -> str:
    """ "" where the template in `folder` has no form of calls that this engine is known to read."""
    texts = "\n".join(own_texts(folder)[0].values())
    for form in FORMS:
        if all(mark in texts for mark in form.marks):
            return form.parsers.get(driver, "")
    return ""


def reads_calls(driver: str, folder: Path) -> bool:
    """Whether this engine finds calls in answers of the model in `folder`: drivers that are named above have to be told
    how, the others read them by themselves. No engine does where the template has no place for tools."""
    if not any("tools" in text for text in own_texts(folder)[0].values()):
        return False  # llama.cpp would leave them out without a word
    is_told = any(driver in form.parsers for form in FORMS)
    return not is_told or tool_parser(driver, folder) != ""
