"""The shelf of exports: how a trained model leaves the house, each proven equal to what was trained.

To add one: a class like `export.Export` in a file here and one line below (or an entry point `danlu.exports`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from danlu.core.shelf import Shelf

if TYPE_CHECKING:
    from danlu.exports.export import Export

EXPORTS: Shelf[type[Export]] = Shelf(
    "exports",
    {
        "adapter": "danlu.exports.adapter:AdapterExport",
        "merged": "danlu.exports.hf:MergedExport",
        "gguf": "danlu.exports.gguf_file:GGUFExport",
        "gguf-lora": "danlu.exports.gguf_lora:GGUFLoRAExport",
        "ollama": "danlu.exports.ollama_model:OllamaExport",
        "lmstudio": "danlu.exports.lmstudio:LMStudioExport",
        "awq": "danlu.exports.awq_file:AWQExport",
        "gptq": "danlu.exports.gptq_file:GPTQExport",
        "vllm": "danlu.exports.vllm:VLLMExport",
        "vllm-lora": "danlu.exports.vllm_lora:VLLMLoRAExport",
    },
)
