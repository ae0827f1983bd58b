"""The shelf of families, keyed by `model_type` of config.json. To add one see `family.py`. Whatever is not here goes
through `hf.py`: any other transformers causal LM, slower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.core.shelf import Shelf
from danlu.model.families.family import Family

FAMILIES: Shelf[Family] = Shelf(
    "families",
    {
        "llama": "danlu.model.families.llama:FAMILY",  # also Yi, DeepSeek-LLM and what else is Llama-shaped
        "mistral": "danlu.model.families.mistral:FAMILY",
        "qwen2": "danlu.model.families.qwen2:FAMILY",
        "qwen3": "danlu.model.families.qwen3:FAMILY",
        "gemma2": "danlu.model.families.gemma2:FAMILY",
        "gemma3_text": "danlu.model.families.gemma3:FAMILY",
        "gemma3": "danlu.model.families.gemma3:SEEING",  # the text part of the larger ones
        "phi3": "danlu.model.families.phi3:FAMILY",  # Phi-3, Phi-3.5, Phi-4, Phi-4-mini
        "bert": "danlu.model.families.bert:FAMILY",  # encoders, for method classify: also MacBERT, chinese-roberta-wwm
        "roberta": "danlu.model.families.roberta:FAMILY",
        "xlm-roberta": "danlu.model.families.roberta:MULTILINGUAL",
    },
)


def own_family(config: Mapping[str, Any]) -> Family | None:
    """The family on this shelf that a config.json belongs to; None sends it through `hf.py`."""
    kind = str(config["model_type"])
    return FAMILIES.load(kind) if kind in FAMILIES.places else None
