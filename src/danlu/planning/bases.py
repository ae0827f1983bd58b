"""Shapes of bases that people start from, so that a newcomer can plan before downloading anything.

Each row is what the model's own config.json states. A name is found with or without its organisation, its endings
(-Instruct, -Base, -it, a date) and its case: `Qwen/Qwen2.5-7B-Instruct` and `qwen2.5-7b` are one shape.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

from danlu.planning.shapes import Shapes

_Row = tuple[str, int, int, int, int, int, int, int, bool]

# name, hidden, layers, heads, kv heads, head size, ffn, vocabulary, tied
_QWEN2: tuple[_Row, ...] = (
    ("qwen2.5-0.5b", 896, 24, 14, 2, 64, 4864, 151_936, True),
    ("qwen2.5-1.5b", 1536, 28, 12, 2, 128, 8960, 151_936, True),
    ("qwen2.5-3b", 2048, 36, 16, 2, 128, 11_008, 151_936, True),
    ("qwen2.5-7b", 3584, 28, 28, 4, 128, 18_944, 152_064, False),
    ("qwen2.5-14b", 5120, 48, 40, 8, 128, 13_824, 152_064, False),
    ("qwen2.5-32b", 5120, 64, 40, 8, 128, 27_648, 152_064, False),
    ("qwen2.5-72b", 8192, 80, 64, 8, 128, 29_568, 152_064, False),
    ("deepseek-r1-distill-qwen-1.5b", 1536, 28, 12, 2, 128, 8960, 151_936, False),
    ("deepseek-r1-distill-qwen-7b", 3584, 28, 28, 4, 128, 18_944, 152_064, False),
    ("deepseek-r1-distill-qwen-14b", 5120, 48, 40, 8, 128, 13_824, 152_064, False),
    ("deepseek-r1-distill-qwen-32b", 5120, 64, 40, 8, 128, 27_648, 152_064, False),
)
_QWEN3: tuple[_Row, ...] = (
    ("qwen3-0.6b", 1024, 28, 16, 8, 128, 3072, 151_936, True),
    ("qwen3-1.7b", 2048, 28, 16, 8, 128, 6144, 151_936, True),
    ("qwen3-4b", 2560, 36, 32, 8, 128, 9728, 151_936, True),
    ("qwen3-8b", 4096, 36, 32, 8, 128, 12_288, 151_936, False),
    ("qwen3-14b", 5120, 40, 40, 8, 128, 17_408, 151_936, False),
    ("qwen3-32b", 5120, 64, 64, 8, 128, 25_600, 151_936, False),
)
_LLAMA: tuple[_Row, ...] = (
    ("llama-3.2-1b", 2048, 16, 32, 8, 64, 8192, 128_256, True),
    ("llama-3.2-3b", 3072, 28, 24, 8, 128, 8192, 128_256, True),
    ("llama-3.1-8b", 4096, 32, 32, 8, 128, 14_336, 128_256, False),
    ("llama-3.1-70b", 8192, 80, 64, 8, 128, 28_672, 128_256, False),
    ("llama-3.3-70b", 8192, 80, 64, 8, 128, 28_672, 128_256, False),
    ("llama-2-7b", 4096, 32, 32, 32, 128, 11_008, 32_000, False),
    ("llama-2-13b", 5120, 40, 40, 40, 128, 13_824, 32_000, False),
    ("mistral-7b", 4096, 32, 32, 8, 128, 14_336, 32_768, False),
    ("mistral-nemo", 5120, 40, 32, 8, 128, 14_336, 131_072, False),
    ("mistral-small-24b", 5120, 40, 32, 8, 128, 32_768, 131_072, False),
    ("phi-4", 5120, 40, 40, 10, 128, 17_920, 100_352, False),
    ("phi-4-mini", 3072, 32, 24, 8, 128, 8192, 200_064, True),
    ("phi-3.5-mini", 3072, 32, 32, 32, 96, 8192, 32_064, False),
    ("yi-1.5-6b", 4096, 32, 32, 4, 128, 11_008, 64_000, False),
    ("yi-1.5-9b", 4096, 48, 32, 4, 128, 11_008, 64_000, False),
    ("deepseek-llm-7b", 4096, 30, 32, 32, 128, 11_008, 102_400, False),
)
_GEMMA2: tuple[_Row, ...] = (
    ("gemma-2-2b", 2304, 26, 8, 4, 256, 9216, 256_000, True),
    ("gemma-2-9b", 3584, 42, 16, 8, 256, 14_336, 256_000, True),
    ("gemma-2-27b", 4608, 46, 32, 16, 128, 36_864, 256_000, True),
)
_GEMMA3: tuple[_Row, ...] = (
    ("gemma-3-1b", 1152, 26, 4, 1, 256, 6912, 262_144, True),
    ("gemma-3-4b", 2560, 34, 8, 4, 256, 10_240, 262_208, True),
    ("gemma-3-12b", 3840, 48, 16, 8, 256, 15_360, 262_208, True),
    ("gemma-3-27b", 5376, 62, 32, 16, 128, 21_504, 262_208, True),
)


def _shapes(row: _Row, model_type: str, window: int | None = None) -> Shapes:
    _, hidden, layers, heads, kv_heads, head_dim, ffn, vocab, tied = row
    config = {
        "model_type": model_type, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": ffn, "vocab_size": vocab,
        "tie_word_embeddings": tied, "sliding_window": window,
    }  # fmt: skip
    shapes = Shapes.read(config)
    assert shapes is not None, f"{row[0]}: a dense decoder"
    return shapes


BASES: dict[str, Shapes] = {
    **{row[0]: _shapes(row, "qwen2") for row in _QWEN2},
    **{row[0]: _shapes(row, "qwen3") for row in _QWEN3},
    **{row[0]: _shapes(row, "llama") for row in _LLAMA},
    **{row[0]: _shapes(row, "gemma2", 4096) for row in _GEMMA2},
    **{row[0]: _shapes(row, "gemma3_text", 512 if row[0].endswith("1b") else 1024) for row in _GEMMA3},
}
_ENDINGS = re.compile(r"-(instruct|base|chat|it|pt|hf|v\d+(\.\d+)?|\d{4}|bnb-4bit|unsloth|bf16)$")
_OTHER_NAMES = {
    "qwen2-0.5b": "qwen2.5-0.5b", "qwen2-1.5b": "qwen2.5-1.5b", "qwen2-7b": "qwen2.5-7b", "qwen2-72b": "qwen2.5-72b",
    "meta-llama-3-8b": "llama-3.1-8b", "meta-llama-3.1-8b": "llama-3.1-8b", "meta-llama-3-70b": "llama-3.1-70b",
    "meta-llama-3.1-70b": "llama-3.1-70b", "deepseek-r1-distill-llama-8b": "llama-3.1-8b",
    "deepseek-r1-distill-llama-70b": "llama-3.1-70b", "mistral-nemo-instruct-2407": "mistral-nemo",
    "mistral-small-24b-instruct-2501": "mistral-small-24b",
}  # fmt: skip


def known_base(base: str) -> Shapes | None:
    """Shapes of a base by name or hub id; None where danlu does not know it."""
    return BASES.get(_plain(base))


def near_bases(base: str) -> list[str]:
    """Names that the given one may have meant."""
    return get_close_matches(_plain(base), BASES, n=4, cutoff=0.5)


def bare_name(base: str) -> str:
    """Without organisation, folder, endings and capitals: names of one checkpoint in its variants."""
    name = base.rstrip("/").rpartition("/")[2].lower()
    while name not in BASES and name not in _OTHER_NAMES:
        shorter = _ENDINGS.sub("", name)
        if shorter == name:
            break
        name = shorter
    return name


def _plain(base: str) -> str:
    name = bare_name(base)
    return _OTHER_NAMES.get(name, name)
