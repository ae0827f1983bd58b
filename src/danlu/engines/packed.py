"""Our decoder's forward for answering on a CPU: the same sums as `model/decoder.py`, in fewer and better laid out
pieces. Torch only; no compiler is needed.

Projections that read the same input are one product (q, k, v; gate and up), a low-rank pair's A lies below its weight
in that product, and weights are laid out once as the CPU's matrix kernels want them (oneDNN does it at every call
otherwise, which for a small model costs more than the product). What many prompts begin with is computed once.
`packed` copies the weights as they are now; whoever changes them packs again.

Shapes: T tokens end to end, B rows, D hidden, H query heads, K key/value heads, N outputs, R ranks side by side,
P shared tokens, L padded length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

from danlu.adapters.lora import LoRALinear
from danlu.model.cache import KVCache
from danlu.model.decoder import Block, Decoder, RMSNorm
from danlu.model.model import Model
from danlu.model.spec import Spec
from danlu.ops.attention import Bounds, padded_attention
from danlu.ops.gated import gated_forward
from danlu.ops.rope import apply_rope

MOST_BYTES = 2 * 2**30
"""A second copy of larger weights is not made."""
SHARED_FROM = 4
"""Tokens that prompts must have in common before those are computed apart."""
LENGTH_STEP = 32
"""Attention looks at the cache in steps of so many places: each length is a kernel of its own to oneDNN."""


def packed(model: Model, *, with_adapter: bool) -> Packed | None:
    """The model's weights packed, with or without the pairs attached to it; None where that does not pay or is not
    known: other devices, other architectures, quantised or very large weights."""
    if not isinstance(model, Decoder) or model.device.type != "cpu":
        return None
    if model.dtype not in (torch.float32, torch.bfloat16):
        return None
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    is_plain = all(type(linear) in (nn.Linear, LoRALinear) and linear.weight is not None for linear in linears)
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    has_all = sum(isinstance(module, nn.Linear) for module in model.model.modules()) == 7 * model.spec.num_layers
    if not is_plain or not has_all or num_bytes > MOST_BYTES:
        return None
    with torch.inference_mode():
        return Packed(model, with_adapter=with_adapter)


class Product:
    """x [T, D] times the weights of layers that read the same input, side by side: [T, N]."""

    def __init__(self, layers: Sequence[nn.Module], *, with_adapter: bool) -> None:
        linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
        assert len(linears) == len(layers), "packed weights come from linear layers"
        self.num_outputs = sum(linear.out_features for linear in linears)
        weights = [linear.weight for linear in linears]
        dtype = weights[0].dtype
        biases = [linear.bias for linear in linears]
        pairs = [linear if with_adapter and isinstance(linear, LoRALinear) else None for linear in linears]
        self.B_RN: Tensor | None = None
        if any(pairs):
            weights += [pair.lora_A.to(dtype) for pair in pairs if pair is not None]
            self.B_RN = _blocks(linears, pairs, dtype)
        weight_ND = torch.cat(weights)
        bias_N = None
        if any(bias is not None for bias in biases):
            filled = [
                torch.zeros(linear.out_features, dtype=dtype) if bias is None else bias
                for linear, bias in zip(linears, biases, strict=True)
            ]
            bias_N = torch.cat([*filled, torch.zeros(len(weight_ND) - self.num_outputs, dtype=dtype)])
        self.bias_N = bias_N
        self.weight_ND, self.is_packed = lay_out(weight_ND)

    def __call__(self, x_TD: Tensor) -> Tensor:
        out_TN = times(x_TD, self.weight_ND, self.bias_N, is_packed=self.is_packed)
        if self.B_RN is None:
            return out_TN
        own_TN = out_TN[:, : self.num_outputs]
        return own_TN.addmm_(out_TN[:, self.num_outputs :], self.B_RN)


def _blocks(linears: Sequence[nn.Linear], pairs: Sequence[LoRALinear | None], dtype: torch.dtype) -> Tensor:
    """B_RN: each pair's scaled B where its ranks meet its layer's outputs, zeros elsewhere."""
    num_ranks = sum(pair.lora_A.shape[0] for pair in pairs if pair is not None)
    B_RN = torch.zeros(num_ranks, sum(linear.out_features for linear in linears), dtype=dtype)
    rank = output = 0
    for linear, pair in zip(linears, pairs, strict=True):
        if pair is not None:
            size = pair.lora_A.shape[0]
            B_RN[rank : rank + size, output : output + linear.out_features] = (pair.scaling * pair.lora_B.T).to(dtype)
            rank += size
        output += linear.out_features
    return B_RN


def lay_out(weight_ND: Tensor) -> tuple[Tensor, bool]:
    """The weight as oneDNN reads it fastest, and whether it is: builds of torch without it keep it as it is."""
    if not torch._C._has_mkldnn:
        return weight_ND, False
    with torch.inference_mode(False), torch.no_grad():
        return torch.ops.mkldnn._reorder_linear_weight(weight_ND.clone()), True


def times(x_TD: Tensor, weight_ND: Tensor, bias_N: Tensor | None, *, is_packed: bool) -> Tensor:
    if not is_packed:
        return F.linear(x_TD, weight_ND, bias_N)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x_TD, weight_ND, bias_N, "none", [], "")
    return out


def normed(x: Tensor, norm: nn.Module) -> Tensor:
    """`ops.rms_norm` with one piece of fresh memory where that has five: of many tokens the memory is what costs."""
    assert isinstance(norm, RMSNorm), "a decoder's norms are RMSNorms"
    wide = x.float()
    inverse = torch.linalg.vecdot(wide, wide).div_(x.shape[-1]).add_(norm.eps).rsqrt_()[..., None]
    out = wide * inverse if wide is x else wide.mul_(inverse)  # never in the caller's memory
    if norm.offset:
        return out.mul_(norm.weight.float() + norm.offset).to(x.dtype)
    return out.to(x.dtype).mul_(norm.weight.to(x.dtype))


@dataclass(slots=True)
class Layer:
    """One block's packed weights beside its norms."""

    block: Block
    qkv: Product
    out: Product
    gate_up: Product
    down: Product


class Packed:
    """A `decoding.Forward`."""

    def __init__(self, model: Decoder, *, with_adapter: bool) -> None:
        self.model, self.spec = model, model.spec
        self.layers: list[Layer] = []
        for block in model.model.layers:
            assert isinstance(block, Block), "a decoder is made of blocks"
            at, mlp = block.self_attn, block.mlp
            parts = ([at.q_proj, at.k_proj, at.v_proj], [at.o_proj], [mlp.gate_proj, mlp.up_proj], [mlp.down_proj])
            self.layers.append(Layer(block, *(Product(part, with_adapter=with_adapter) for part in parts)))
        self.head_VD, self.is_head_packed = lay_out(model.head_weight.detach())
        self._prefix: Prefix | None = None

    def new_cache(self, num_rows: int, max_tokens: int) -> KVCache:
        """In fp32: a CPU's products of small bf16 matrices are slower than those of fp32."""
        spec = self.spec
        places = -(-max_tokens // LENGTH_STEP) * LENGTH_STEP
        sizes = (spec.num_layers, num_rows, spec.num_kv_heads, places, spec.head_size)
        return KVCache(*sizes, dtype=torch.float32, device=torch.device("cpu"))

    def logits(self, hidden_ND: Tensor) -> Tensor:
        logits_NV = times(hidden_ND, self.head_VD, None, is_packed=self.is_head_packed)
        cap = self.spec.logit_softcap
        return logits_NV if cap is None else torch.tanh(logits_NV / cap) * cap

    def prefill(self, prompts: list[Tensor], cache: KVCache) -> Tensor:
        shared = self._shared_by(prompts)
        start = shared.length if shared else 0
        bounds = Bounds.of([len(prompt) - start for prompt in prompts])
        meet = _Own(self.spec, bounds, cache) if shared is None else _Shared(self.spec, bounds, cache, shared)
        reach_T = self.model.reaches(bounds, torch.device("cpu"))
        last_B = torch.tensor(bounds.cu_seqlens[1:]) - 1
        hidden_BD = self._through(
            torch.cat([prompt[start:] for prompt in prompts]), bounds.positions() + start,
            None if reach_T is None else reach_T + start, meet, last_B,
        )  # fmt: skip
        cache.commit(Bounds.of([len(prompt) for prompt in prompts]))
        return normed(hidden_BD, self.model.model.norm)

    def _shared_by(self, prompts: list[Tensor]) -> Prefix | None:
        """What these prompts begin with, computed, or None where that is too short to pay. Kept for the next ones."""
        known = self._prefix
        if self.spec.attention_softcap is not None or any(rope.long_factors for rope in self.spec.ropes):
            return None
        if known and all(len(p) > known.length and torch.equal(p[: known.length], known.ids_P) for p in prompts):
            return known
        if len(prompts) < 2:
            return None
        shortest = min(map(len, prompts)) - 1  # a prompt has a token of its own left
        differs_P = (torch.stack([prompt[:shortest] for prompt in prompts]) != prompts[0][:shortest]).any(0)
        length = int(differs_P.nonzero()[0]) if bool(differs_P.any()) else shortest
        if length < SHARED_FROM:
            return None
        self._prefix = Prefix(prompts[0][:length].clone())
        self._through(self._prefix.ids_P, torch.arange(length), None, self._prefix.keep(self.spec), None)
        return self._prefix

    def step(self, ids_B: Tensor, cache: KVCache) -> Tensor:
        look = Look(cache, self.spec.windows)

        def meet(layer: int, q_BHD: Tensor, k_BKD: Tensor, v_BKD: Tensor) -> Tensor:
            return look.at(layer, q_BHD, k_BKD, v_BKD, self.spec.attention_scale, self.spec.attention_softcap)

        hidden_BD = self._through(ids_B, cache.lengths_B, cache.lengths_B + 1, meet, None)
        cache.advance()
        return normed(hidden_BD, self.model.model.norm)

    def _through(
        self, ids_T: Tensor, positions_T: Tensor, reach_T: Tensor | None, meet: Meet, wanted_B: Tensor | None
    ) -> Tensor:
        """hidden before the final norm, of all tokens or of the wanted ones: the last layer's feed-forward computes no
        others."""
        spec = self.spec
        x_TD = self.model.model.embed(ids_T)  # ours alone, and added to in place
        turns = self.model.model.turns(positions_T, x_TD.dtype, reach_T)
        num_q, num_kv = spec.num_heads, spec.num_kv_heads
        for number, (layer, rope) in enumerate(zip(self.layers, spec.ropes, strict=True)):
            block = layer.block
            qkv_TN = layer.qkv(normed(x_TD, block.input_layernorm))
            qkv_THD = qkv_TN.view(len(qkv_TN), num_q + 2 * num_kv, spec.head_size)
            v_TKD = qkv_THD[:, num_q + num_kv :]
            if spec.has_qk_norm:
                q_THD = apply_rope(normed(qkv_THD[:, :num_q], block.self_attn.q_norm), turns[rope])
                k_TKD = apply_rope(normed(qkv_THD[:, num_q : num_q + num_kv], block.self_attn.k_norm), turns[rope])
            else:
                turned = apply_rope(qkv_THD[:, : num_q + num_kv], turns[rope])
                q_THD, k_TKD = turned[:, :num_q], turned[:, num_q:]
            met_TD = meet(number, q_THD, k_TKD, v_TKD).flatten(-2)
            if wanted_B is not None and number == spec.num_layers - 1:
                met_TD, x_TD = met_TD[wanted_B], x_TD[wanted_B]
            mixed_TD = layer.out(met_TD)
            x_TD.add_(normed(mixed_TD, block.post_attention_layernorm) if spec.has_sandwich_norms else mixed_TD)
            norm = block.pre_feedforward_layernorm if spec.has_sandwich_norms else block.post_attention_layernorm
            fed_TD = layer.down(gated_forward(layer.gate_up(normed(x_TD, norm)), block.mlp.activation))
            x_TD.add_(normed(fed_TD, block.post_feedforward_layernorm) if spec.has_sandwich_norms else fed_TD)
        return x_TD


Meet = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""How the queries of layer n meet keys and values: (n, q_THD, k_TKD, v_TKD) -> out_THD."""


class Prefix:
    """Tokens that many prompts begin with, and their keys and values in each layer, [P, K, D]."""

    def __init__(self, ids_P: Tensor) -> None:
        self.ids_P, self.length = ids_P, len(ids_P)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def keep(self, spec: Spec) -> Meet:
        """The prefix computes itself and is kept on the way."""
        bounds = Bounds.of([self.length])

        def meet(layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
            self.keys.append(k_TKD.clone())
            self.values.append(v_TKD.clone())
            return padded_attention(
                q_THD, k_TKD, v_TKD, bounds, scale=spec.attention_scale, window=spec.windows[layer]
            )  # fmt: skip

        return meet


class _Own:
    """Prompts that share nothing."""

    def __init__(self, spec: Spec, bounds: Bounds, cache: KVCache) -> None:
        self.spec, self.bounds, self.cache = spec, bounds, cache

    def __call__(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
        self.cache.fill(layer, k_TKD, v_TKD, self.bounds)
        spec = self.spec
        return padded_attention(
            q_THD, k_TKD, v_TKD, self.bounds,
            scale=spec.attention_scale, window=spec.windows[layer], softcap=spec.attention_softcap,
        )  # fmt: skip


class _Shared:
    """Prompts behind a prefix, padded on the right to the longest: padding comes after every real key."""

    def __init__(self, spec: Spec, bounds: Bounds, cache: KVCache, prefix: Prefix) -> None:
        self.spec, self.cache, self.prefix = spec, cache, prefix
        self.num_rows, self.longest = bounds.num_documents, bounds.max_length
        starts = (row * self.longest + torch.arange(length) for row, length in enumerate(bounds.lengths))
        self.slots_T = torch.cat(list(starts))
        behind = prefix.length + torch.arange(self.longest)[:, None] - torch.arange(prefix.length + self.longest)
        self.seen = {
            window: (behind >= 0) if window is None else (behind >= 0) & (behind < window)
            for window in dict.fromkeys(spec.windows)
        }

    def __call__(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
        q_NHLD = self._padded(q_THD).transpose(1, 2)
        k_NKLD, v_NKLD = (
            torch.cat((first[layer].expand(self.num_rows, -1, -1, -1), self._padded(own)), dim=1).transpose(1, 2)
            for first, own in ((self.prefix.keys, k_TKD), (self.prefix.values, v_TKD))
        )
        self.cache.keys[layer][:, :, : k_NKLD.shape[2]] = k_NKLD
        self.cache.values[layer][:, :, : v_NKLD.shape[2]] = v_NKLD
        out_NHLD = F.scaled_dot_product_attention(
            q_NHLD, k_NKLD, v_NKLD, attn_mask=self.seen[self.spec.windows[layer]], scale=self.spec.attention_scale,
            enable_gqa=self.spec.num_heads > self.spec.num_kv_heads,
        )  # fmt: skip
        return out_NHLD.transpose(1, 2).reshape(-1, *q_THD.shape[1:])[self.slots_T]

    def _padded(self, x_THD: Tensor) -> Tensor:
        """[N, L, heads, D]"""
        out = x_THD.new_zeros(self.num_rows * self.longest, *x_THD.shape[1:])
        return out.index_copy_(0, self.slots_T, x_THD).view(self.num_rows, self.longest, *x_THD.shape[1:])


class Look:
    """How one step's queries look at the cache: what is the same in every layer is made once."""

    def __init__(self, cache: KVCache, windows: Sequence[int | None]) -> None:
        assert cache.longest < cache.max_tokens, f"the cache's {cache.max_tokens} places are full"
        self.cache, self.windows = cache, windows
        num_rows, (_, num_kv, places, _) = cache.num_rows, cache.keys[0].shape
        first_BK = torch.arange(num_rows * num_kv).view(num_rows, num_kv) * places
        self.slots_N = (first_BK + cache.lengths_B[:, None]).flatten()
        self.length = min(places, -(-(cache.longest + 1) // LENGTH_STEP) * LENGTH_STEP)
        self.hiding = {window: self._hiding(window, num_kv) for window in dict.fromkeys(windows)}

    def _hiding(self, window: int | None, num_kv: int) -> Tensor:
        """[B K, 1, M] to add to scores: -inf where a row holds nothing, or a window does not reach."""
        places_M = torch.arange(self.length)
        last_B1 = self.cache.lengths_B[:, None]
        is_hidden_BM = places_M > last_B1
        if window is not None:
            is_hidden_BM |= places_M <= last_B1 - window
        hiding_BM = torch.zeros(is_hidden_BM.shape).masked_fill_(is_hidden_BM, float("-inf"))
        return hiding_BM[:, None].expand(-1, num_kv, -1).reshape(-1, 1, self.length)

    def at(
        self, layer: int, q_BHD: Tensor, k_BKD: Tensor, v_BKD: Tensor, scale: float, softcap: float | None
    ) -> Tensor:
        """Append one key and value per row and let the query see its row. out_BHD. Query heads that share a key head
        are rows of one product."""
        num_rows, (_, num_kv, places, size) = self.cache.num_rows, self.cache.keys[layer].shape
        for held, fresh in ((self.cache.keys[layer], k_BKD), (self.cache.values[layer], v_BKD)):
            held.view(-1, size).index_copy_(0, self.slots_N, fresh.reshape(-1, size).float())
        keys, values = (
            held.view(-1, places, size)[: num_rows * num_kv, : self.length]
            for held in (self.cache.keys[layer], self.cache.values[layer])
        )
        rows = q_BHD.float().reshape(num_rows * num_kv, -1, size)
        hiding = self.hiding[self.windows[layer]]
        if softcap is None:
            scores = torch.baddbmm(hiding, rows, keys.transpose(1, 2), alpha=scale)
        else:
            scores = torch.tanh(rows @ keys.transpose(1, 2) * (scale / softcap)) * softcap + hiding
        out = torch.bmm(scores.softmax(-1), values)
        return out.view(q_BHD.shape).to(q_BHD.dtype)
