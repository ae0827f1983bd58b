"""Parameter counts from a checkpoint's `config.json`, without loading a weight. Dense decoders, and encoders without
their last layer, which has as many rows as there are classes.

What a family leaves unsaid in its config (Qwen2's biases, Gemma's head size) stands in `TRAITS`, by `model_type`; the
model room's own reading needs torch. Tests hold the two to the same counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What config.json does not say of a kind: `norms` counts hidden-sized norms of a block, the rest are Shapes' fields.
TRAITS: dict[str, dict[str, Any]] = {
    "qwen2": {"has_qkv_bias": True},
    "qwen3": {"head_dim": 128, "has_qk_norm": True},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "gemma2": {"head_dim": 256, "tie_word_embeddings": True, "norms": 4, "sliding_window": 4096, "slides_of": (1, 2)},
    "gemma3_text": {
        "head_dim": 256, "tie_word_embeddings": True, "norms": 4, "has_qk_norm": True, "sliding_window": 4096,
        "slides_of": (5, 6), "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262_208,
    },
}  # fmt: skip
TRAITS["gemma3"] = TRAITS["gemma3_text"]
_ENCODER = {"has_qkv_bias": True, "attention_bias": True, "mlp_bias": True}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": _ENCODER | {"max_position_embeddings": 512, "type_vocab_size": 2},
    # places up to the padding token's id belong to padding
    "roberta": _ENCODER | {"max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1},
}
"""Encoders, and what their config.json may leave unsaid."""
ENCODERS["xlm-roberta"] = ENCODERS["roberta"]
OWN_FAMILIES = frozenset({"llama", "phi3", *TRAITS, *ENCODERS})
"""Those with a model of ours; others run through transformers, written out."""
NOT_DENSE = ("num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank", "ssm_cfg", "state_size")
"""Keys of mixtures of experts, latent attention and state spaces, whose sizes mean something else."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of a dense decoder, or an encoder. `num_params` counts a tied head once; `linear_params` are the blocks'
    matrices."""

    hidden: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    has_qkv_bias: bool = False
    has_o_bias: bool = False
    has_mlp_bias: bool = False
    has_qk_norm: bool = False
    norms: int = 2
    window: int | None = None
    """Of the layers that slide, which are `num_sliding`."""
    num_sliding: int = 0
    is_foreign: bool = False
    """Of a family that danlu has no model for."""
    num_positions: int = 0
    """Of an encoder: rows of its table of places, and 0 otherwise."""
    first_position: int = 0
    num_types: int = 0

    @classmethod
    def read(cls, config: dict[str, Any]) -> Shapes | None:
        """From a Hugging Face config (the text part of a multimodal one); None when it is not a dense decoder's."""
        outer = config.get("model_type", "")
        config = config.get("text_config", config)
        kind = str(config.get("model_type", outer))
        given = {key: value for key, value in config.items() if value is not None or key == "sliding_window"}
        config = {**TRAITS.get(kind, {}), **ENCODERS.get(kind, {}), **given}
        if kind in ENCODERS:  # its word says whether a head of another kind shares the embedding
            config["tie_word_embeddings"] = True
        try:
            hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
            if min(hidden, heads) < 1 or any((config.get(key) or 0) not in (0, 1) for key in NOT_DENSE):
                return None
            bias = bool(config.get("attention_bias"))
            layers = int(config["num_hidden_layers"])
            window, num_sliding = _sliding(config, layers)
            return cls(
                hidden=hidden,
                num_layers=layers,
                num_heads=heads,
                num_kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or hidden // heads),
                ffn=int(config["intermediate_size"]),
                vocab=int(config["vocab_size"]),
                # transformers leaves out what is its base default: Gemma, tied; Llama and its kin say "false"
                tied=bool(config.get("tie_word_embeddings", True)),
                has_qkv_bias=bias or bool(config.get("has_qkv_bias")),
                has_o_bias=bias,
                has_mlp_bias=bool(config.get("mlp_bias")),
                has_qk_norm=bool(config.get("has_qk_norm")),
                norms=int(config.get("norms", 2)),
                window=window,
                num_sliding=num_sliding,
                is_foreign=bool(kind) and kind not in OWN_FAMILIES,
                num_positions=int(config["max_position_embeddings"]) if kind in ENCODERS else 0,
                first_position=int(config["pad_token_id"]) + 1 if kind in ENCODERS and kind != "bert" else 0,
                num_types=int(config["type_vocab_size"]) if kind in ENCODERS else 0,
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None

    @property
    def is_encoder(self) -> bool:
        return self.num_positions > 0

    @property
    def reach(self) -> int:
        """Tokens that an encoder reads at once, its marks included."""
        return self.num_positions - self.first_position

    @property
    def query_size(self) -> int:
        """Width of all query heads together; also of what attention hands to o_proj."""
        return self.num_heads * self.head_dim

    @property
    def qkv_size(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of each linear layer of a block."""
        q, kv = self.query_size, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (q, self.hidden),
            "k_proj": (kv, self.hidden),
            "v_proj": (kv, self.hidden),
            "o_proj": (self.hidden, q),
            "gate_proj": (0 if self.is_encoder else self.ffn, self.hidden),
            "up_proj": (self.ffn, self.hidden),
            "down_proj": (self.hidden, self.ffn),
        }

    @property
    def linear_params(self) -> int:
        return self.num_layers * sum(rows * columns for rows, columns in self.linear_shapes.values())

    @property
    def embedding_params(self) -> int:
        """The embedding and, where it is not tied, the head; an encoder's tables, and the layer below its classes."""
        of_encoder = self.num_positions + self.num_types + self.hidden if self.is_encoder else 0
        return (self.vocab * (1 if self.tied else 2) + of_encoder) * self.hidden

    @property
    def _block_vectors(self) -> int:
        """Norms and biases of one block."""
        if self.is_encoder:  # its norms have a bias
            return 9 * self.hidden + self.ffn
        block = self.norms * self.hidden + 2 * self.head_dim * self.has_qk_norm
        block += self.qkv_size * self.has_qkv_bias + self.hidden * self.has_o_bias
        return block + (2 * self.ffn + self.hidden) * self.has_mlp_bias

    @property
    def vector_params(self) -> int:
        """Norms and biases; before an encoder's blocks stands another norm."""
        return self.num_layers * self._block_vectors + self.hidden * (3 if self.is_encoder else 1)

    @property
    def block_params(self) -> int:
        """Of one decoder layer."""
        return self.linear_params // self.num_layers + self._block_vectors

    @property
    def num_params(self) -> int:
        return self.linear_params + self.embedding_params + self.vector_params

    def lora_params(
        self, rank: int, targets: tuple[str, ...] | None, num_layers: int | None = None, *, has_magnitudes: bool = False
    ) -> int:
        """Trainable parameters of a LoRA of this rank on the named linear layers (None: all) of so many blocks; DoRA
        has a number for each output besides."""
        shapes = self.linear_shapes
        chosen = shapes if targets is None else {n: s for n, s in shapes.items() if n in targets}
        pairs = sum(rank * (rows + columns) + rows * has_magnitudes for rows, columns in chosen.values())
        return (num_layers or self.num_layers) * pairs


def _sliding(config: Mapping[str, Any], layers: int) -> tuple[int | None, int]:
    """The window and how many layers have it."""
    window = config.get("sliding_window")
    if not window or config.get("use_sliding_window") is False:
        return None, 0
    if isinstance(listed := config.get("layer_types"), list):
        return int(window), sum(kind == "sliding_attention" for kind in listed)
    some, of = config.get("slides_of", (1, 1))
    whole, rest = divmod(layers, of)
    return int(window), whole * some + min(rest, some)
