"""A PEFT adapter's settings, as far as engines differ in what they make of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danlu.core.files import read_json
from danlu.core.messages import say
from danlu.recipe.exports import VLLM_RANKS


def rank_of(folder: Path) -> int:
    """The highest rank of any layer; 0 where this is no PEFT adapter."""
    config = _settings(folder)
    return max([int(config.get("r", 0)), *map(int, (config.get("rank_pattern") or {}).values())])


def beyond_plain(folder: Path) -> list[str]:
    """What engines with one rank and one scale for all layers would take no notice of, or cannot hold; in words."""
    config, found = _settings(folder), []
    if patterns := [key for key in ("rank_pattern", "alpha_pattern") if config.get(key)]:
        found.append(say("drivers.con_patterns", given=", ".join(patterns)))
    if rank_of(folder) > VLLM_RANKS[-1]:
        found.append(say("drivers.con_rank", given=rank_of(folder), most=VLLM_RANKS[-1]))
    return found


def beside_no_base(folder: Path) -> str:
    """The setting for which no engine puts this adapter beside a base: another kind than low-rank pairs, or pairs with
    magnitudes (DoRA); "" where there is none."""
    config = _settings(folder)
    kind = str(config.get("peft_type", "LORA"))
    return kind if kind != "LORA" else "use_dora" if config.get("use_dora") else ""


def _settings(folder: Path) -> Mapping[str, Any]:
    path = folder / "adapter_config.json"
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}
