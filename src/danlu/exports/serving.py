"""How vLLM and SGLang are started on an artefact, as files that both read; and what vLLM asks of adapters.

vLLM keeps room for adapters of a few ranks only, and one scale for all modules of an adapter; `uniform` makes any pairs
so without changing what they add.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from danlu.adapters.peft_format import Pair
from danlu.core.errors import ExportError
from danlu.core.files import write_text
from danlu.core.messages import say
from danlu.data.contract import Contract
from danlu.model.families.family import Fused
from danlu.recipe.exports import VLLM_RANKS

VLLM, SGLANG = "vllm.yaml", "sglang.yaml"


def allowed_rank(rank: int) -> int:
    """The least `max_lora_rank` of vLLM's that takes this rank."""
    fitting = [each for each in VLLM_RANKS if each >= rank]
    if not fitting:
        raise ExportError("serving.rank", where="adapter.rank", given=rank, most=VLLM_RANKS[-1])
    return fitting[0]


def write_serving(
    folder: Path, *, name: str, contract: Contract, context: int, base: str | None = None, rank: int = 0
) -> None:
    """`vllm.yaml` and `sglang.yaml`. With `base` the folder is an adapter of that rank, to be put on it."""
    has_template = (folder / "chat_template.jinja").is_file()
    vllm: dict[str, Any] = {"model": base or ".", "served-model-name": [name], "max-model-len": context}
    sglang: dict[str, Any] = {"model-path": base or ".", "served-model-name": name, "context-length": context}
    if has_template:
        vllm["chat-template"] = sglang["chat-template"] = "chat_template.jinja"
    if base is None:
        vllm["generation-config"] = "."
    else:
        vllm |= {"enable-lora": True, "max-lora-rank": allowed_rank(rank), "lora-modules": [f"{name}=."]}
        vllm["served-model-name"] = [Path(base).name]
        vllm |= {"tokenizer": ".", "generation-config": "."}
        sglang |= {"enable-lora": True, "max-lora-rank": rank, "lora-paths": [f"{name}=."], "tokenizer-path": "."}
        sglang["served-model-name"] = Path(base).name
    system = contract.value["system"]
    note = f"# {say('serving.system', 'en')} / {say('serving.system', 'zh')}\n# {system!r}\n" if system else ""
    for file_name, settings in ((VLLM, vllm), (SGLANG, sglang)):
        write_text(folder / file_name, note + yaml.safe_dump(settings, allow_unicode=True, sort_keys=False))


def uniform(pairs: Mapping[str, Pair], fused: tuple[Fused, ...]) -> dict[str, Pair]:
    """Pairs of one rank and one scale, once layers that the checkpoint fuses are stacked: zeros fill up what is
    narrower, B takes up what a scale differs by. Pairs that are so already stay as they are."""
    groups = _stacks(pairs, fused)
    widths = {stem: _stacked_rank([pairs[name] for name in names]) for stem, names in groups.items()}
    rank = max(widths.values())
    scaling = next(pairs[names[0]].scaling for stem, names in groups.items() if widths[stem] == rank)
    out: dict[str, Pair] = {}
    for stem, names in groups.items():
        is_shared = _shares([pairs[name] for name in names])
        for at, name in enumerate(names):
            pair = pairs[name]
            missing = rank - widths[stem] if at == 0 or is_shared else 0
            out[name] = _filled(pair, missing, scaling) if missing or pair.scaling != scaling else pair
    return {name: out[name] for name in pairs}


def _stacks(pairs: Mapping[str, Pair], fused: tuple[Fused, ...]) -> dict[str, list[str]]:
    """Modules by the layer of the checkpoint that they are part of."""
    groups: dict[str, list[str]] = {}
    for name in pairs:
        stem = name
        for stack in fused:
            for part in stack.parts:
                if name.endswith(f".{part}"):
                    stem = name.removesuffix(part) + stack.name
        groups.setdefault(stem, []).append(name)
    return groups


def _stacked_rank(pairs: list[Pair]) -> int:
    return len(pairs[0].A) if _shares(pairs) else sum(len(pair.A) for pair in pairs)


def _shares(pairs: list[Pair]) -> bool:
    return all(torch.equal(pair.A, pairs[0].A) for pair in pairs)


def _filled(pair: Pair, missing: int, scaling: float) -> Pair:
    A = torch.cat([pair.A, torch.zeros(missing, pair.A.shape[1])])
    B = torch.cat([pair.B * (pair.scaling / scaling), torch.zeros(len(pair.B), missing)], dim=1)
    return Pair(A, B, scaling, pair.dropout)
