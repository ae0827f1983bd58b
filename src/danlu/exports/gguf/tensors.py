"""What a model's weights become in a GGUF file: names, row order, norms, stacks, and the type each is stored in.

Matrices take the file's type; norms, biases and angle tables stay fp32, as llama.cpp wants them. k-quants are mixed by
llama.cpp's own recipe: what hurts most (the head, and v and down in the outer and every third layer) gets more bits.
The type of a row that does not divide into blocks falls back to one whose blocks it fits.

Shapes: N output rows, D input columns, H heads, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from danlu.core.errors import ExportError
from danlu.exports.gguf.architecture import Description
from danlu.exports.gguf.kquants import quantize_rows
from danlu.model.families.family import Fused
from danlu.model.spec import Spec
from danlu.planning.servable import Architecture

Quantize = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]
QUANTIZE: tuple[Quantize, ...] = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m")
_MIXES: dict[str, tuple[str, str]] = {
    "q4_k_m": ("Q4_K", "Q6_K"), "q5_k_m": ("Q5_K", "Q6_K"), "q6_k": ("Q6_K", "Q6_K"),
}  # fmt: skip
"""Quantize to the type of most matrices, and that of those which get more bits."""
_WIDER = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q8_0": "F16"}
"""For rows of which blocks leave a rest."""
_STACKS: dict[str, str] = {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
_HEAD, _EMBEDDING = "output.weight", "token_embd.weight"


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the file. `read` gives it in fp32, [N, D] or [N]; `type` is a name of ggml's."""

    name: str
    shape: tuple[int, ...]
    type: str
    read: Callable[[], Tensor]

    def encoded(self) -> np.ndarray[Any, Any]:
        """As bytes of its type, [N, bytes of a row], or as numbers where its type is one of numpy's."""
        return encode(self.read(), self.type, self.name)


def entries_of(
    weights: Mapping[str, Tensor], spec: Spec, fused: tuple[Fused, ...], described: Description, quantize: Quantize
) -> list[Entry]:
    """All tensors, in the order of the file. `weights` by our names, in any dtype; nothing is copied before `read`."""
    entries = []
    for name, shape, read in _named(weights, spec, fused, described):
        entries.append(Entry(name, shape, type_of(name, shape, spec, quantize), read))
    return entries


def _named(
    weights: Mapping[str, Tensor], spec: Spec, fused: tuple[Fused, ...], described: Description
) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    for name, table in described.tensors.items():
        yield name, tuple(table.shape), table.float
    for name, tensor in weights.items():
        stack = next((f for f in fused for part in f.parts if f".{part}." in name), None)
        if stack is None:
            read = partial(turned, name, tensor, spec, described.architecture)
            yield file_name(name, spec), tuple(tensor.shape), read
        elif f".{stack.parts[0]}." in name:
            parts = [weights[name.replace(stack.parts[0], part)] for part in stack.parts]
            shape = (sum(len(part) for part in parts), *tensor.shape[1:])
            yield file_name(name.replace(stack.parts[0], stack.name), spec), shape, partial(stacked, parts)


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """Weights of one input on top of each other, in fp32."""
    return torch.cat([part.detach().cpu().float() for part in parts])


def turned(name: str, tensor: Tensor, spec: Spec, architecture: Architecture) -> Tensor:
    """A weight in fp32 as llama.cpp wants it: Gemma's norms with their one, rows of q and k in its order."""
    wide = tensor.detach().cpu().float()
    module, _, _ = name.rpartition(".")
    if spec.norm_offset and module.endswith("norm"):
        return wide + spec.norm_offset
    if architecture.turns_neighbours and module.endswith(("q_proj", "k_proj")):
        num_heads = spec.num_heads if module.endswith("q_proj") else spec.num_kv_heads
        return neighbouring(wide, num_heads)
    return wide


def neighbouring(rows: Tensor, num_heads: int) -> Tensor:
    """Rows [H · 2F, ...] with i and i + F of each head side by side."""
    half = len(rows) // num_heads // 2
    return rows.reshape(num_heads, 2, half, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape).contiguous()


def parted(rows: Tensor, num_heads: int) -> Tensor:
    """The reverse of `neighbouring`."""
    half = len(rows) // num_heads // 2
    return rows.reshape(num_heads, half, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape).contiguous()


def restored(
    found: Mapping[str, Tensor], weights: Mapping[str, Tensor], spec: Spec, fused: tuple[Fused, ...],
    architecture: Architecture,
) -> Iterator[tuple[str, Tensor]]:  # fmt: skip
    """(our name, fp32 values) of each of `weights` as decoded tensors have them; the reverse of `entries_of`."""
    for name, weight in weights.items():
        stack = next((f for f in fused for part in f.parts if f".{part}." in name), None)
        if stack is not None:
            part = next(part for part in stack.parts if f".{part}." in name)
            rows = found[file_name(name.replace(part, stack.name), spec)]
            yield name, torch.split(rows, list(stack.sizes(spec)))[stack.parts.index(part)]
            continue
        values, module = found[file_name(name, spec)], name.rpartition(".")[0]
        if spec.norm_offset and module.endswith("norm"):
            values = values - spec.norm_offset
        if architecture.turns_neighbours and module.endswith(("q_proj", "k_proj")):
            values = parted(values, spec.num_heads if module.endswith("q_proj") else spec.num_kv_heads)
        assert values.shape == weight.shape, "a weight comes back in its shape"
        yield name, values


def file_name(name: str, spec: Spec) -> str:
    """The file's name of a checkpoint's weight or bias."""
    stem, _, kind = name.rpartition(".")
    ends = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    if stem in ends:
        return f"{ends[stem]}.{kind}"
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm" if spec.has_sandwich_norms else "ffn_norm",
        "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    } | _STACKS  # fmt: skip
    _, _, layer, part = stem.split(".", 3)
    if part not in names:
        raise ExportError("gguf.foreign_tensor", where=name)
    return f"blk.{layer}.{names[part]}.{kind}"


# ---- types


def type_of(name: str, shape: tuple[int, ...], spec: Spec, quantize: Quantize) -> str:
    """The type that a tensor is stored in."""
    if len(shape) == 1 or name.startswith("rope_"):
        return "F32"
    chosen = quantize.upper()
    if quantize in _MIXES:
        chosen = _mixed(name, spec, quantize)
    while chosen in _WIDER and shape[-1] % block_size(chosen):
        chosen = _WIDER[chosen]
    return chosen


def block_size(type_name: str) -> int:
    """How many columns of a row are stored together."""
    return 256 if type_name.endswith("_K") else 32


def _mixed(name: str, spec: Spec, quantize: Quantize) -> str:
    """llama.cpp's mix "medium"."""
    most, more = _MIXES[quantize]
    if name == _HEAD or (name == _EMBEDDING and spec.is_tied):
        return more
    if not name.startswith("blk."):
        return most
    layer, part = int(name.split(".")[1]), name.split(".")[2]
    eighth = spec.num_layers // 8
    is_outer = layer < eighth or layer >= 7 * spec.num_layers // 8 or (layer - eighth) % 3 == 2
    if part in ("attn_v", "ffn_down") and is_outer:
        return more
    return "Q5_K" if part == "attn_qkv" and quantize == "q4_k_m" else more if part == "attn_qkv" else most


def encode(values: Tensor, type_name: str, where: str) -> np.ndarray[Any, Any]:
    """fp32 values as the bytes of a type. ExportError when a value is too large for fp16."""
    match type_name:
        case "F32":
            return values.contiguous().numpy()
        case "F16":
            narrow = values.to(torch.float16)
            if not bool(narrow.isfinite().all()):
                raise ExportError("gguf.too_large", where=where, given=f"{float(values.abs().max()):.4g}")
            return narrow.contiguous().numpy()
        case "BF16":
            return values.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
        case _:
            return quantize_rows(values.contiguous().numpy(), type_name)
