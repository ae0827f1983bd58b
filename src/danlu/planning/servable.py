"""What the programs that will serve a model take, known before it is trained: from config.json and a recipe, no torch.

`ARCHITECTURES` is llama.cpp's side of each family; the GGUF writer works by the same table. A rule answers with what is
in the way, in a catalogue key and its values; none of them guesses: what a config does not say is not complained about.
Sources: llama.cpp's loaders, and vLLM's `LoRAConfig` and `PEFTHelper`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Architecture:
    """`turns_neighbours`: it rotates dimension 2i with 2i + 1, where checkpoints pair i with i + R/2, so rows of q and
    k change places. `window_period` n: every n-th layer does not slide; None: it knows no windows."""

    name: str
    rope_kinds: frozenset[str]
    biases: frozenset[str] = frozenset()
    turns_neighbours: bool = False
    window_period: int | None = None
    heads_fill_width: bool = False
    """It takes num_heads · head_size to be the width."""
    scale_by_depth: tuple[int, ...] = ()
    """Depths at which it scales scores by width / heads instead of by the head's size."""
    activation: str = "silu"
    needs_softcaps: bool = False


_LLAMA = Architecture(
    "llama", frozenset({"default", "linear", "llama3", "yarn"}), frozenset({"qkv", "o", "mlp"}), turns_neighbours=True
)
ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture("qwen2", frozenset({"default", "linear", "yarn"}), frozenset({"qkv"})),
    "qwen3": Architecture("qwen3", frozenset({"default", "linear", "yarn"})),
    "gemma2": Architecture(
        "gemma2", frozenset({"default", "linear"}), activation="gelu_tanh", window_period=2, scale_by_depth=(46,),
        needs_softcaps=True,
    ),
    "gemma3_text": Architecture(
        "gemma3", frozenset({"default", "linear"}), activation="gelu_tanh", window_period=6, scale_by_depth=(62,)
    ),
    "phi3": Architecture("phi3", frozenset({"default", "linear", "longrope"}), heads_fill_width=True),
}  # fmt: skip
"""By the family's name."""
_STACKED = {"phi3": {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}}
"""Families whose checkpoints fuse layers: a pair of each part becomes one wider pair."""
_TEXT_PARTS = {"gemma3": "gemma3_text"}
_LONG = {"phi3": ("yarn",)}
"""What early files call LongRoPE, by family."""
_HEADS = ("lm_head", "embed_tokens", "embed_out")
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "modules_to_save": (None, []), "bias": (None, "none"),
    "trainable_token_indices": (None, [], {}),
}  # fmt: skip
"""Settings of a PEFT adapter that vLLM refuses, with the values under which they do nothing."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`key` in the room `serving`, and its values."""

    key: str
    values: dict[str, Any]


def text_of(config: Config) -> Config:
    """The text part of a model that also sees."""
    part = _TEXT_PARTS.get(str(config.get("model_type")))
    return config["text_config"] | {"model_type": part} if part else config


def gguf_faults(config: Config) -> Iterator[Fault]:
    """What llama.cpp would leave out or compute otherwise, as far as config.json tells."""
    config = text_of(config)
    family = str(config.get("model_type"))
    architecture = ARCHITECTURES.get(family)
    if architecture is None:
        yield Fault("no_gguf_family", {"given": family, "known": ", ".join(ARCHITECTURES)})
        return
    kind = rope_kind(config)
    if kind not in architecture.rope_kinds:
        yield Fault("no_gguf_rope", {"given": kind, "known": ", ".join(sorted(architecture.rope_kinds))})
    biases = {"qkv": config.get("attention_bias"), "o": config.get("attention_bias"), "mlp": config.get("mlp_bias")}
    if lost := [name for name, is_there in biases.items() if is_there and name not in architecture.biases]:
        yield Fault("no_gguf_bias", {"given": ", ".join(lost)})
    heads, width, head = config.get("num_attention_heads"), config.get("hidden_size"), config.get("head_dim")
    if architecture.heads_fill_width and heads and width and head and heads * head != width:
        yield Fault("no_gguf_heads", {"given": f"{heads} × {head}", "expected": width})


def rope_kind(config: Config) -> str:
    """The name of the scaling of angles; early Phi-3 files say "su" or "yarn" where they mean LongRoPE."""
    table: Config = config.get("rope_parameters") or config.get("rope_scaling") or {}
    table = table.get("full_attention", table)
    kind = str(table.get("rope_type", table.get("type", "default")))
    long_names = _LONG.get(str(config.get("model_type")), ())
    return "longrope" if kind == "su" or kind in long_names else kind


def coarser_rows(config: Config, quantize: str) -> Iterator[Fault]:
    """Rows that a type's blocks do not divide: they are stored wider, and the file grows."""
    config = text_of(config)
    block = 256 if "_k" in quantize else 32 if quantize == "q8_0" else 1
    widths = {int(config[name]) for name in ("hidden_size", "intermediate_size") if config.get(name)}
    if odd := sorted(width for width in widths if width % block):
        yield Fault("odd_rows", {"given": ", ".join(map(str, odd)), "block": block, "quantize": quantize})


def cut_context(config: Config, context: int) -> Iterator[Fault]:
    """Texts longer than what llama.cpp computes as it was trained: it has no sliding window for some families."""
    config = text_of(config)
    architecture = ARCHITECTURES.get(str(config.get("model_type")))
    if architecture is None or architecture.window_period is not None or config.get("use_sliding_window") is False:
        return
    window = config.get("sliding_window")
    if window is not None and context > window:
        yield Fault("no_gguf_window", {"given": context, "window": window})


def adapter_faults(config: Config | None, rank: int, targets: Any, allowed: tuple[int, ...]) -> Iterator[Fault]:
    """What vLLM would not serve of an adapter that this recipe trains."""
    names = [] if isinstance(targets, str) else [str(target).rpartition(".")[2] for target in targets]
    if heads := [name for name in names if name in _HEADS]:
        yield Fault("heads", {"given": ", ".join(heads)})
    stacked = _STACKED.get(str((config or {}).get("model_type")), {})
    parts = [stack for name, stack in stacked.items() if not names or name in names]
    widest = rank * max([parts.count(stack) for stack in parts], default=1)
    if widest > allowed[-1]:
        yield Fault("rank_before", {"given": rank, "stored": widest, "most": allowed[-1]})


def start_faults(settings: Config) -> Iterator[Fault]:
    """Of a PEFT adapter to continue from."""
    for name, neutral in NEUTRAL.items():
        if name in settings and settings[name] not in neutral:
            yield Fault("start_setting", {"setting": name, "given": settings[name]})
