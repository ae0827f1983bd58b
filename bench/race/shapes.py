"""Model shapes of the race, their parameters by name, and how much arithmetic a step of LoRA training is. No torch.

Model FLOPs of a step (engine protocol: recompute never counts):
    body   4 N per token: forward 2 N, gradient of the input 2 N; frozen weights need no gradient of their own
    head   4 V D per supervised token
    attention 3 x forward, forward 2 L^2 H d per layer and document of L tokens (half of the square, causal)
Not counted: the low-rank products (0.6 % of N at rank 16 on a 7B) and everything pointwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

PEAK_FLOPS = 989.5e12
"""Dense bf16 of an H100/H200 SXM by its data sheet, per second; fp8 rows are held against the same number."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    family: str
    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    rope_theta: float
    norm_eps: float
    is_tied: bool = False

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def body_weights(self) -> int:
        """Frozen weights that take part in a product: neither embedding nor head."""
        hidden, kv = self.hidden_size, self.num_kv_heads * self.head_size
        return self.num_layers * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * self.ffn_size)

    @property
    def head_weights(self) -> int:
        return self.hidden_size * self.vocab_size

    def step_flops(self, lengths: Sequence[int], num_supervised: int) -> float:
        """Model FLOPs of one LoRA step on documents of these lengths."""
        num_tokens = sum(lengths)
        attention = 3 * 2 * self.num_layers * self.num_heads * self.head_size * sum(length**2 for length in lengths)
        return 4.0 * self.body_weights * num_tokens + 4.0 * self.head_weights * num_supervised + attention

    def mfu(self, lengths: Sequence[int], num_supervised: int, seconds: float) -> float:
        return self.step_flops(lengths, num_supervised) / (seconds * PEAK_FLOPS)

    def hf_config(self, context: int = 32_768) -> dict[str, Any]:
        """What `config.json` says."""
        return {
            "architectures": ["Qwen2ForCausalLM" if self.family == "qwen2" else "LlamaForCausalLM"],
            "model_type": self.family,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.ffn_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "vocab_size": self.vocab_size,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.norm_eps,
            "hidden_act": "silu",
            "max_position_embeddings": context,
            "initializer_range": 0.02,
            "tie_word_embeddings": self.is_tied,
            "torch_dtype": "bfloat16",
            "use_cache": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }

    def parameters(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes as a checkpoint holds them."""
        hidden, kv = self.hidden_size, self.num_kv_heads * self.head_size
        yield "model.embed_tokens.weight", (self.vocab_size, hidden)
        for layer in range(self.num_layers):
            at = f"model.layers.{layer}."
            for name, rows in (("q_proj", hidden), ("k_proj", kv), ("v_proj", kv)):
                yield f"{at}self_attn.{name}.weight", (rows, hidden)
                if self.family == "qwen2":
                    yield f"{at}self_attn.{name}.bias", (rows,)
            yield f"{at}self_attn.o_proj.weight", (hidden, hidden)
            yield f"{at}mlp.gate_proj.weight", (self.ffn_size, hidden)
            yield f"{at}mlp.up_proj.weight", (self.ffn_size, hidden)
            yield f"{at}mlp.down_proj.weight", (hidden, self.ffn_size)
            yield f"{at}input_layernorm.weight", (hidden,)
            yield f"{at}post_attention_layernorm.weight", (hidden,)
        yield "model.norm.weight", (hidden,)
        if not self.is_tied:
            yield "lm_head.weight", (self.vocab_size, hidden)


SHAPES = {
    "qwen2.5-7b": Shape("qwen2", 3584, 18_944, 28, 28, 4, 152_064, 1e6, 1e-6),
    "llama-3.1-8b": Shape("llama", 4096, 14_336, 32, 32, 8, 128_256, 5e5, 1e-5),
    # The published 0.5B ties its head to the embedding; here they are two tensors, which is the same work.
    "qwen2.5-0.5b": Shape("qwen2", 896, 4864, 24, 14, 2, 151_936, 1e6, 1e-6),
    "25m": Shape("qwen2", 384, 1024, 8, 6, 2, 16_384, 1e6, 1e-6, is_tied=True),
    "tiny": Shape("qwen2", 64, 128, 2, 4, 2, 512, 1e4, 1e-6),
}


def find_shape(name: str, num_layers: int | None = None) -> Shape:
    """`num_layers` makes a smoke run of a large shape."""
    shape = SHAPES[name]
    return replace(shape, num_layers=num_layers) if num_layers else shape
