"""The decoder, written once. Llama, Qwen, Mistral, Gemma, Phi and their kin differ in `Spec` fields only.

Tokens of all documents lie end to end in one flat row (T); there is no batch dimension and no padding. Attribute
names are the Hugging Face checkpoint's, so parameters are called what the file calls them
(`model.layers.0.self_attn.q_proj.weight`). Covered: training and scoring (`hidden`), generation (`prefill`, `step`).
Not covered: sampling, losses' labels, adapters.

Shapes: T tokens (or B rows in a step), D hidden, H query heads, K key/value heads, G ffn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danlu.model.cache import KVCache
from danlu.model.model import Model
from danlu.model.prefix import Prefix, Seats, spread
from danlu.model.spec import Spec
from danlu.ops.attention import Bounds, attention
from danlu.ops.gated import gated
from danlu.ops.rms_norm import rms_norm
from danlu.ops.rope import RopeSpec, Rotation, apply_rope, rotation

Attend = Callable[["SelfAttention", Tensor, Tensor, Tensor], Tensor]
"""How queries meet keys: over a flat row of documents, or one token per row over a cache."""


class RMSNorm(nn.Module):
    def __init__(self, size: int, spec: Spec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), 1.0 - spec.norm_offset))
        self.eps, self.offset = spec.norm_eps, spec.norm_offset

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps, self.offset)


class SelfAttention(nn.Module):
    def __init__(self, spec: Spec, layer: int) -> None:
        super().__init__()
        self.layer, self.spec = layer, spec
        self.window, self.rope = spec.windows[layer], spec.ropes[layer]
        q_size, kv_size = spec.num_heads * spec.head_size, spec.num_kv_heads * spec.head_size
        self.q_proj = nn.Linear(spec.hidden_size, q_size, bias=spec.has_qkv_bias)
        self.k_proj = nn.Linear(spec.hidden_size, kv_size, bias=spec.has_qkv_bias)
        self.v_proj = nn.Linear(spec.hidden_size, kv_size, bias=spec.has_qkv_bias)
        self.o_proj = nn.Linear(q_size, spec.hidden_size, bias=spec.has_o_bias)
        if spec.has_qk_norm:
            self.q_norm = RMSNorm(spec.head_size, spec)
            self.k_norm = RMSNorm(spec.head_size, spec)

    def forward(self, x_TD: Tensor, turn: Rotation, attend: Attend) -> Tensor:
        q_THD = self.q_proj(x_TD).unflatten(-1, (self.spec.num_heads, self.spec.head_size))
        k_TKD = self.k_proj(x_TD).unflatten(-1, (self.spec.num_kv_heads, self.spec.head_size))
        v_TKD = self.v_proj(x_TD).unflatten(-1, (self.spec.num_kv_heads, self.spec.head_size))
        if self.spec.has_qk_norm:
            q_THD, k_TKD = self.q_norm(q_THD), self.k_norm(k_TKD)
        out_THD = attend(self, apply_rope(q_THD, turn), apply_rope(k_TKD, turn), v_TKD)
        out: Tensor = self.o_proj(out_THD.flatten(-2))
        return out


class MLP(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.activation = spec.activation
        self.gate_proj = nn.Linear(spec.hidden_size, spec.ffn_size, bias=spec.has_mlp_bias)
        self.up_proj = nn.Linear(spec.hidden_size, spec.ffn_size, bias=spec.has_mlp_bias)
        self.down_proj = nn.Linear(spec.ffn_size, spec.hidden_size, bias=spec.has_mlp_bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        out: Tensor = self.down_proj(gated(self.gate_proj(x_TD), self.up_proj(x_TD), self.activation))
        return out


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x). `post_attention_layernorm` is the checkpoint's name for the
    second norm; Gemma uses that name for a norm on attention's way out."""

    def __init__(self, spec: Spec, layer: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(spec, layer)
        self.mlp = MLP(spec)
        self.input_layernorm = RMSNorm(spec.hidden_size, spec)
        self.post_attention_layernorm = RMSNorm(spec.hidden_size, spec)
        self.has_sandwich_norms = spec.has_sandwich_norms
        if spec.has_sandwich_norms:
            self.pre_feedforward_layernorm = RMSNorm(spec.hidden_size, spec)
            self.post_feedforward_layernorm = RMSNorm(spec.hidden_size, spec)

    def forward(self, x_TD: Tensor, turn: Rotation, attend: Attend) -> Tensor:
        attended_TD = self.self_attn(self.input_layernorm(x_TD), turn, attend)
        if self.has_sandwich_norms:
            x_TD = x_TD + self.post_attention_layernorm(attended_TD)
            out_TD: Tensor = x_TD + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x_TD)))
        else:
            x_TD = x_TD + attended_TD
            out_TD = x_TD + self.mlp(self.post_attention_layernorm(x_TD))
        return out_TD


class Trunk(nn.Module):
    """Everything the checkpoint calls `model.`: embedding, blocks, final norm."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        # Its own draw, on the meta device, would load torch's compiler: a second of CPU in every process.
        room_VD = torch.empty(spec.vocab_size, spec.hidden_size)
        self.embed_tokens = nn.Embedding(spec.vocab_size, spec.hidden_size, _weight=room_VD)
        self.layers = nn.ModuleList(Block(spec, layer) for layer in range(spec.num_layers))
        self.norm = RMSNorm(spec.hidden_size, spec)

    def embed(self, ids_T: Tensor) -> Tensor:
        x_TD: Tensor = self.embed_tokens(ids_T)
        if self.spec.embed_scale == 1:
            return x_TD
        # The scale is rounded to the weights' dtype first, as Gemma was trained.
        return x_TD * torch.tensor(self.spec.embed_scale, dtype=x_TD.dtype, device=x_TD.device)

    def turns(self, positions_T: Tensor, dtype: torch.dtype, reach_T: Tensor | None) -> dict[RopeSpec, Rotation]:
        """One rotation for each kind of layer."""
        return {rope: rotation(rope, positions_T, dtype, reach_T) for rope in dict.fromkeys(self.spec.ropes)}

    def forward(self, ids_T: Tensor, positions_T: Tensor, reach_T: Tensor | None, attend: Attend) -> Tensor:
        x_TD = self.embed(ids_T)
        turns = self.turns(positions_T, x_TD.dtype, reach_T)
        for block, rope in zip(self.layers, self.spec.ropes, strict=True):
            x_TD = block(x_TD, turns[rope], attend)
        out_TD: Tensor = self.norm(x_TD)
        return out_TD


class Decoder(Model):
    """Trunk and head. A tied head has no module of its own: `head_weight` is the embedding's."""

    def __init__(self, spec: Spec, folder: Path, config: dict[str, Any]) -> None:
        super().__init__(spec, folder, config)
        self.model = Trunk(spec)
        if not spec.is_tied:
            self.lm_head = nn.Linear(spec.hidden_size, spec.vocab_size, bias=False)

    def hidden(self, ids_T: Tensor, positions_T: Tensor, bounds: Bounds, cache: KVCache | None = None) -> Tensor:
        assert len(ids_T) == len(positions_T) == bounds.num_tokens, "ids, positions and bounds speak of the same tokens"
        prefix = self._prefix_in_use
        if prefix is not None:
            return self._hidden_behind(prefix, ids_T, positions_T, bounds, cache)

        def attend(at: SelfAttention, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
            if cache is not None:
                cache.fill(at.layer, k_TKD, v_TKD, bounds)
            return self._attention(at, q_THD, k_TKD, v_TKD, bounds)

        hidden_TD: Tensor = self.model(ids_T, positions_T, self.reaches(bounds, ids_T.device), attend)
        if cache is not None:
            cache.commit(bounds)
        return hidden_TD

    def _hidden_behind(
        self, prefix: Prefix, ids_T: Tensor, positions_T: Tensor, bounds: Bounds, cache: KVCache | None
    ) -> Tensor:
        """The same where a prefix stands before each document; it lies in the cache as its first tokens."""
        seats = Seats.of(bounds, prefix.num_tokens, ids_T.device)

        def attend(at: SelfAttention, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
            k_WKD, v_WKD = prefix.before(at.layer, k_TKD, v_TKD, seats)
            if cache is not None:
                cache.fill(at.layer, k_WKD, v_WKD, seats.bounds)
            return self._attention(at, spread(q_THD, seats), k_WKD, v_WKD, seats.bounds).index_select(0, seats.own_T)

        reach_W = self.reaches(seats.bounds, ids_T.device)
        reach_T = None if reach_W is None else reach_W[seats.own_T]
        hidden_TD: Tensor = self.model(ids_T, positions_T + prefix.num_tokens, reach_T, attend)
        if cache is not None:
            cache.commit(seats.bounds)
        return hidden_TD

    def _attention(self, at: SelfAttention, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, bounds: Bounds) -> Tensor:
        return attention(
            q_THD, k_TKD, v_TKD, bounds,
            scale=self.spec.attention_scale, window=at.window, softcap=self.spec.attention_softcap,
        )  # fmt: skip

    @property
    def _prefix_in_use(self) -> Prefix | None:
        return None if self.prefix is None or self.prefix.is_disabled else self.prefix

    def reaches(self, bounds: Bounds, device: torch.device) -> Tensor | None:
        """Documents' lengths by token, where a rope asks for them."""
        return bounds.reaches(device) if any(rope.long_factors for rope in self.spec.ropes) else None

    def step(self, ids_B: Tensor, cache: KVCache) -> Tensor:
        def attend(at: SelfAttention, q_BHD: Tensor, k_BKD: Tensor, v_BKD: Tensor) -> Tensor:
            return cache.attend(
                at.layer, q_BHD, k_BKD, v_BKD,
                scale=self.spec.attention_scale, window=at.window, softcap=self.spec.attention_softcap,
            )  # fmt: skip

        hidden_BD: Tensor = self.model(ids_B, cache.lengths_B, cache.lengths_B + 1, attend)
        cache.advance()
        return hidden_BD

    def logits(self, hidden_ND: Tensor) -> Tensor:
        if self.spec.is_tied:
            logits_NV = nn.functional.linear(hidden_ND.to(self.head_weight.dtype), self.head_weight)
        else:
            logits_NV = self.lm_head(hidden_ND.to(self.head_weight.dtype))
        cap = self.spec.logit_softcap
        return logits_NV if cap is None else torch.tanh(logits_NV / cap) * cap

    def new_cache(self, num_rows: int, max_tokens: int) -> KVCache:
        spec = self.spec
        max_tokens += self._prefix_in_use.num_tokens if self._prefix_in_use is not None else 0
        sizes = (spec.num_layers, num_rows, spec.num_kv_heads, max_tokens, spec.head_size)
        return KVCache(*sizes, dtype=self.dtype, device=self.device)

    @property
    def head_weight(self) -> Tensor:
        head: nn.Embedding | nn.Linear = self.model.embed_tokens if self.spec.is_tied else self.lm_head
        return head.weight

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Fresh weights: normal with the config's std, the two projections into the residual stream smaller by
        sqrt(2 · layers) (Radford et al., 2019), biases zero, norms at identity."""
        shrink = math.sqrt(2 * self.spec.num_layers)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.dim() == 1:
                parameter.fill_(1.0 - self.spec.norm_offset)
            else:
                is_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = self.spec.init_std / (shrink if is_residual else 1.0)
                # Drawn in fp32 on CPU, so that a seed means the same weights in every dtype and on every device.
                fresh = torch.empty(parameter.shape).normal_(0.0, std, generator=generator)
                parameter.copy_(fresh)
