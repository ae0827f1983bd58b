"""Prefix tuning: keys and values of some tokens that were never written stand before every text, and they alone train
(Li & Liang 2021, arXiv:2101.00190; the same is P-tuning v2, Liu et al. 2021, arXiv:2110.07602).

They begin as what the model itself makes of words drawn at random: a prefix of noise learns far less (Li & Liang,
§7.4). No reparametrisation: numbers train as they are saved. Nothing can be merged, for no weight stands for them.

On disk it is PEFT's PREFIX_TUNING: one tensor `prompt_embeddings`, [P, L · 2 · K · D] in fp32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from danlu.adapters.adapter import find_unsound
from danlu.adapters.peft_format import CONFIG, WEIGHTS, read_tensors
from danlu.core.errors import ModelError, RecipeError, TrainingError
from danlu.core.files import read_json, replacing_folder, write_json
from danlu.model.decoder import Decoder
from danlu.model.model import Model
from danlu.model.prefix import Prefix
from danlu.model.spec import Spec
from danlu.model.tensor_file import write_tensors
from danlu.ops.attention import Bounds

KIND, TENSOR = "PREFIX_TUNING", "prompt_embeddings"


@dataclass(frozen=True)
class PrefixTuning:
    """`num_tokens` before every text; `seed` draws the words that they begin as."""

    num_tokens: int = 20
    seed: int = 0
    kind: Literal["prefix"] = "prefix"

    def attach(self, model: Model) -> AttachedPrefix:
        own = _refuse_foreign(model)
        return AttachedPrefix(own, _heard(own, self.num_tokens, self.seed))

    @staticmethod
    def load(folder: Path, model: Model) -> AttachedPrefix:
        """From PEFT's folder, ready to answer or to train on."""
        own = _refuse_foreign(model)
        numbers = read_tensors(folder).get(TENSOR)
        if numbers is None:
            raise ModelError("adapter.no_prefix", where=str(folder / WEIGHTS))
        told = read_json(folder / CONFIG).get("num_virtual_tokens")
        expected = (told, _width(own.spec))
        if tuple(numbers.shape) != expected:
            raise ModelError("adapter.prefix_shape", where=str(folder / WEIGHTS), given=tuple(numbers.shape),
                             expected=expected)  # fmt: skip
        return AttachedPrefix(own, numbers.to(own.device, torch.promote_types(own.dtype, torch.float32)))


class AttachedPrefix:
    """A prefix in its place on one model."""

    kind: Literal["prefix"] = "prefix"
    is_fresh = False
    can_disable = True
    offload: Literal["none"] = "none"
    has_masters_apart = False

    def __init__(self, model: Decoder, numbers_PX: Tensor) -> None:
        if model.prefix is not None or any(name.endswith(".lora_A") for name, _ in model.named_parameters()):
            raise TrainingError("adapter.attached_twice")
        self.model, self.compute_dtype = model, model.dtype
        model.requires_grad_(False)
        self.prefix = model.prefix = Prefix(numbers_PX, model.spec.num_kv_heads, model.spec.head_size)

    def parameters(self) -> dict[str, nn.Parameter]:
        return {TENSOR: self.prefix.prompt_embeddings}

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        self.prefix.is_disabled = True
        try:
            yield
        finally:
            self.prefix.is_disabled = False

    def settle(self) -> None:
        """Nothing to do: it is saved in the fp32 it trains in."""

    def check(self) -> None:
        if name := find_unsound({TENSOR: self.prefix.prompt_embeddings.data}):
            raise TrainingError("adapter.not_finite", where=name)

    def merge(self) -> None:
        raise TrainingError("adapter.merge_prefix")

    def detach(self) -> None:
        """Take it off."""
        if self.model.prefix is not self.prefix:
            raise TrainingError("adapter.merged_twice")
        self.model.prefix = None

    def save(self, folder: Path) -> None:
        with replacing_folder(folder) as fresh:
            write_tensors({TENSOR: self.prefix.prompt_embeddings.detach().float().cpu().contiguous()}, fresh / WEIGHTS)
            write_json(fresh / CONFIG, _describe(self.model.spec, self.prefix.num_tokens))


def _describe(spec: Spec, num_tokens: int) -> dict[str, Any]:
    """The `adapter_config.json`."""
    return {
        "peft_type": KIND,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "revision": None,
        "inference_mode": True,
        "num_virtual_tokens": num_tokens,
        "num_transformer_submodules": 1,
        "num_layers": spec.num_layers,
        "num_attention_heads": spec.num_kv_heads,
        "token_dim": spec.num_kv_heads * spec.head_size,
        "encoder_hidden_size": spec.hidden_size,
        "prefix_projection": False,
    }


def _width(spec: Spec) -> int:
    return 2 * spec.num_layers * spec.num_kv_heads * spec.head_size


@torch.no_grad()
def _heard(model: Decoder, num_tokens: int, seed: int) -> Tensor:
    """The model's own keys and values of a text of so many words drawn at random, [P, L · 2 · K · D]."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same words on every device
    ids_P = torch.randint(model.spec.vocab_size, (num_tokens,), generator=generator).to(model.device)
    bounds, cache = Bounds.of([num_tokens]), model.new_cache(1, num_tokens)
    model.hidden(ids_P, bounds.positions(model.device), bounds, cache)
    sides = [side[0].transpose(0, 1) for pair in zip(cache.keys, cache.values, strict=True) for side in pair]
    return torch.stack(sides, 1).flatten(1).to(torch.promote_types(model.dtype, torch.float32))


def _refuse_foreign(model: Model) -> Decoder:
    """Only our own decoder puts keys and values before its documents."""
    if not isinstance(model, Decoder):
        raise RecipeError("adapter.prefix_foreign", where="adapter.kind", given=model.config.get("model_type", "-"))
    return model
