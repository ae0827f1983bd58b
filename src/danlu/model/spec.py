"""Spec: the shape of a decoder, whatever checkpoint it came from. Families make it from `config.json`; `if model_type`
stands nowhere above them, because every difference between families is a field here."""

from __future__ import annotations

from dataclasses import dataclass

from danlu.ops.gated import Activation
from danlu.ops.rope import RopeSpec


@dataclass(frozen=True, slots=True)
class Spec:
    """Sizes count elements; `windows` and `ropes` have one entry per layer."""

    family: str
    vocab_size: int
    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    context: int
    """Positions the checkpoint was made for."""
    norm_eps: float
    activation: Activation
    is_tied: bool
    """The head is the embedding's transpose and has no weight of its own."""
    ropes: tuple[RopeSpec, ...]
    windows: tuple[int | None, ...]
    """A layer sees this many tokens back, itself included; None is all."""
    attention_scale: float
    has_qkv_bias: bool = False
    has_o_bias: bool = False
    has_mlp_bias: bool = False
    has_qk_norm: bool = False
    has_sandwich_norms: bool = False
    """Gemma 2 and 3 norm what leaves attention and feed-forward too."""
    norm_offset: float = 0.0
    """Gemma stores weight - 1."""
    embed_scale: float = 1.0
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    init_std: float = 0.02

    def __post_init__(self) -> None:
        assert len(self.ropes) == len(self.windows) == self.num_layers, "one rope and one window per layer"
        assert self.num_heads % self.num_kv_heads == 0, "query heads share key/value heads evenly"
