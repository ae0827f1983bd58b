"""What each kind of artefact is on a model hub, and the commands it is used with. Data for the card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from danlu.core.files import read_json
from danlu.core.messages import Language, say


@dataclass(frozen=True, slots=True)
class Use:
    """A way to use an artefact: a key of the room `card`, the language of its code, the code."""

    key: str
    language: str
    code: str


@dataclass(frozen=True, slots=True)
class Nature:
    """What hubs file a kind under, and how it is used. In code {base}, {name}, {file} and {rank} are filled."""

    library: str
    relation: str
    uses: tuple[Use, ...]
    tags: tuple[str, ...] = ()
    task: str = "text-generation"


_CLASSES = Use(
    "use_classes",
    "python",
    """\
from transformers import pipeline

print(pipeline("text-classification", model=".")("…"))""",
)
_TRANSFORMERS = Use(
    "use_transformers",
    "python",
    """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")""",
)
_PEFT = Use(
    "use_peft",
    "python",
    """\
from transformers import AutoModelForCausalLM, AutoTokenizer
from peft import PeftModel

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, ".")
tokenizer = AutoTokenizer.from_pretrained(".")""",
)
_LLAMACPP = Use("use_llamacpp", "bash", "llama-server -m {file} --jinja")
_VLLM = Use("use_vllm", "bash", "vllm serve --config vllm.yaml")
_SGLANG = Use("use_sglang", "bash", "python -m sglang.launch_server --config sglang.yaml")

NATURES: Mapping[str, Nature] = {
    "adapter": Nature("peft", "adapter", (_PEFT,)),
    "merged": Nature("transformers", "finetune", (_TRANSFORMERS,)),
    "merged-classes": Nature("transformers", "finetune", (_CLASSES,), task="text-classification"),
    "gguf": Nature("gguf", "quantized", (_LLAMACPP,), ("gguf", "llama.cpp")),
    "gguf-lora": Nature(
        "gguf", "adapter", (Use("use_llamacpp_lora", "bash", "llama-server -m BASE.gguf --lora {file} --jinja"),),
        ("gguf", "llama.cpp", "lora"),
    ),
    "ollama": Nature(
        "gguf", "quantized", (Use("use_ollama", "bash", "ollama create {name} -f Modelfile\nollama run {name}"),),
        ("gguf", "ollama"),
    ),
    "lmstudio": Nature("gguf", "quantized", (Use("use_lmstudio", "bash", "lms import {file}"),), ("gguf", "lmstudio")),
    "awq": Nature("transformers", "quantized", (_VLLM, _SGLANG), ("awq", "4-bit", "vllm", "sglang")),
    "gptq": Nature("transformers", "quantized", (_VLLM, _SGLANG), ("gptq", "4-bit", "vllm", "sglang")),
    "vllm": Nature("transformers", "finetune", (_VLLM, _SGLANG), ("vllm", "sglang")),
    "vllm-lora": Nature("peft", "adapter", (_VLLM, _SGLANG), ("lora", "vllm", "sglang")),
}  # fmt: skip


def nature_of(kind: str) -> Nature:
    """Kinds of other packages are told as whole models."""
    return NATURES.get(kind, NATURES["merged"])


def ollama_name(name: str) -> str:
    """Ollama takes Latin letters, digits, `-`, `_` and `.` only."""
    return re.sub(r"[^A-Za-z0-9_.\-]+", "-", name).strip("-_.")[:80] or "my-model"


def _has_codes(folder: Path) -> bool:
    """Weights that danlu writes and does not read."""
    config = folder / "config.json"
    return config.is_file() and bool(read_json(config).get("quantization_config"))


def usage(kind: str, folder: Path, language: Language, *, base: str, name: str) -> list[str]:
    """Markdown: with danlu first, then with each program that the kind is for."""
    file = next((path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.gguf"))), "-")
    nature = nature_of(kind)
    is_ours = nature.library != "gguf" and not _has_codes(folder)
    lines = [] if not is_ours else [say("card.use_danlu", language), "", "```bash", "danlu chat .", "```"]
    for use in nature.uses:
        code = use.code.replace("{base}", base).replace("{name}", ollama_name(name)).replace("{file}", file)
        lines += ["", say(f"card.{use.key}", language), "", f"```{use.language}", code, "```"]
    return lines[1:] if lines[0] == "" else lines
