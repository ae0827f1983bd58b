"""Parameter counts from a checkpoint's `config.json`, without loading a weight. Dense decoder families only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of a dense decoder. `num_params` counts a tied head once; `linear_params` are the decoder's matrices."""

    hidden: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool

    @classmethod
    def read(cls, config: dict[str, Any]) -> Shapes | None:
        """From a Hugging Face config (the text part of a multimodal one); None when it is not a dense decoder's."""
        config = config.get("text_config", config)
        try:
            hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
            return cls(
                hidden=hidden,
                num_layers=int(config["num_hidden_layers"]),
                num_heads=heads,
                num_kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or hidden // heads),
                ffn=int(config["intermediate_size"]),
                vocab=int(config["vocab_size"]),
                # transformers leaves out what is its base default: Gemma, tied; Llama and its kin say "false"
                tied=bool(config.get("tie_word_embeddings", True)),
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of each linear layer of a block."""
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (q, self.hidden),
            "k_proj": (kv, self.hidden),
            "v_proj": (kv, self.hidden),
            "o_proj": (self.hidden, q),
            "gate_proj": (self.ffn, self.hidden),
            "up_proj": (self.ffn, self.hidden),
            "down_proj": (self.hidden, self.ffn),
        }

    @property
    def linear_params(self) -> int:
        return self.num_layers * sum(rows * columns for rows, columns in self.linear_shapes.values())

    @property
    def num_params(self) -> int:
        norms = (2 * self.num_layers + 1) * self.hidden
        return self.linear_params + self.vocab * self.hidden * (1 if self.tied else 2) + norms

    def lora_params(self, rank: int, targets: tuple[str, ...] | None) -> int:
        """Trainable parameters of a LoRA of this rank on the named layers (None: all)."""
        shapes = self.linear_shapes
        chosen = shapes if targets is None else {n: s for n, s in shapes.items() if n in targets}
        return self.num_layers * rank * sum(rows + columns for rows, columns in chosen.values())
