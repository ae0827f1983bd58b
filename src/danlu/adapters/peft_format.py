"""PEFT's format on disk, both ways: `adapter_config.json` and `adapter_model.safetensors` with PEFT's names.

A tensor is named `base_model.model.<module>.lora_A.weight`, [R, D], or `.lora_B.weight`, [N, R]; the scale is
alpha / rank, or alpha / sqrt(rank) with `use_rslora`, and both numbers may differ by module (`rank_pattern`,
`alpha_pattern`). Where a checkpoint fuses layers that our model keeps apart (Phi-3's `qkv_proj`), their pairs are
stacked into one block-shaped pair on the way out and split by rows on the way in; both are exact. Pickled adapters are
refused, and so is whatever would change the mathematics (trained biases, whole modules beside the pairs). A DoRA has
`.lora_magnitude_vector`, [N], besides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from danlu.adapters.adapter import layer_of
from danlu.core.errors import ModelError
from danlu.core.files import read_json, replacing_folder, write_json
from danlu.core.messages import listed
from danlu.model.build import family_of
from danlu.model.families.family import Fused
from danlu.model.model import Model
from danlu.model.quantizers.quantizer import QuantizedLinear
from danlu.model.tensor_file import write_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, MAGNITUDE = "base_model.model.", "lora_magnitude_vector"
FreeLinear = nn.Linear | QuantizedLinear
DEFAULTS: dict[str, Any] = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "use_rslora": False, "use_dora": False}
"""PEFT's own, where a setting is not written."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "use_qalora": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "target_parameters": (None, []),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
}
"""Settings of PEFT that change what an adapter computes, with the values under which they do nothing."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One module's low-rank pair: A [R, D], B [N, R], both fp32 on the CPU; the update is `scaling` · B A. With a
    `magnitude` [N] (DoRA) each row of the sum is given that length."""

    A: Tensor
    B: Tensor
    scaling: float
    dropout: float = 0.0
    magnitude: Tensor | None = None

    def update_of(self, weight_ND: Tensor) -> Tensor:
        """What is added to this weight, [N, D], in fp32."""
        update = self.scaling * (self.B.float() @ self.A.float())
        if self.magnitude is None:
            return update
        whole = weight_ND.float() + update
        gain_N = self.magnitude / torch.linalg.vector_norm(whole, dim=1)
        turned: Tensor = gain_N[:, None] * whole - weight_ND.float()
        return turned


def write_pairs(folder: Path, pairs: Mapping[str, Pair], model: Model) -> None:
    """Write a folder that `peft.PeftModel.from_pretrained` loads. `pairs` by module name of `model`."""
    theirs = dict(_fuse(pairs, model))
    modules = list(linears_of(model))
    tensors = {
        f"{PREFIX}{name}.{side}.weight": tensor.contiguous()
        for name, pair in theirs.items()
        for side, tensor in (("lora_A", pair.A), ("lora_B", pair.B))
    }
    tensors |= {
        f"{PREFIX}{name}.{MAGNITUDE}": pair.magnitude for name, pair in theirs.items() if pair.magnitude is not None
    }
    with replacing_folder(folder) as fresh:
        write_tensors(tensors, fresh / WEIGHTS)
        write_json(fresh / CONFIG, describe(theirs, {_module_name(name, model) for name in modules}))


def describe(pairs: Mapping[str, Pair], module_names: set[str]) -> dict[str, Any]:
    """The `adapter_config.json` of these pairs. The commonest rank and scale are the default, others a pattern."""
    ranks = {name: pair.A.shape[0] for name, pair in pairs.items()}
    alphas = {name: _plain(pair.scaling * ranks[name]) for name, pair in pairs.items()}
    rank, alpha = _commonest(ranks.values()), _commonest(alphas.values())
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "revision": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": max(pair.dropout for pair in pairs.values()),
        "use_rslora": False,
        **_targets(set(pairs), module_names),
        "rank_pattern": {re.escape(name): value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {re.escape(name): value for name, value in alphas.items() if value != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "use_dora": any(pair.magnitude is not None for pair in pairs.values()),
    }


def read_pairs(folder: Path, model: Model) -> dict[str, Pair]:
    """The pairs in a PEFT folder by module name of `model`, each checked against that module's shape."""
    config = _read_config(folder)
    linears = linears_of(model)
    pairs: dict[str, Pair] = {}
    for their_name, sides in _read_halves(folder).items():
        where = f"{folder / WEIGHTS}: {their_name}"
        if set(sides) != ({"lora_A", "lora_B", MAGNITUDE} if config["use_dora"] else {"lora_A", "lora_B"}):
            raise ModelError("adapter.half_a_pair", where=where, given=listed(sorted(sides)))
        A, B = sides["lora_A"].float(), sides["lora_B"].float()
        if (told := _for_module(config, "rank_pattern", "r", their_name)) != A.shape[0]:
            raise ModelError("adapter.rank", where=where, given=A.shape[0], expected=told)
        magnitude = sides[MAGNITUDE].float() if MAGNITUDE in sides else None
        whole = Pair(A, B, _scaling(config, their_name, A.shape[0]), config["lora_dropout"], magnitude)
        for name, pair in _split(their_name, whole, model, where):
            if name not in linears:
                raise ModelError("adapter.foreign_module", where=str(folder / WEIGHTS), given=their_name)
            _check_shape(pair, linears[name], where)
            pairs[name] = pair
    return {name: pairs[name] for name in linears if name in pairs}


def linears_of(model: nn.Module) -> dict[str, FreeLinear]:
    """Every linear layer by name, quantised ones too; with a pair or without."""
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | QuantizedLinear)}
    within = {f"{name}.quantized" for name in found}  # of a layer with a pair
    return {name: layer for name, layer in found.items() if name not in within}


def _check_shape(pair: Pair, layer: FreeLinear, where: str) -> None:
    given = pair.A.shape[1], pair.B.shape[0], pair.B.shape[1]
    expected = layer.in_features, layer.out_features, pair.A.shape[0]
    if given != expected:
        raise ModelError("adapter.shape", where=where, given=given, expected=expected)
    if pair.magnitude is not None and pair.magnitude.shape != (layer.out_features,):
        raise ModelError("adapter.shape", where=where, given=tuple(pair.magnitude.shape), expected=layer.out_features)


def row_norms(layer: FreeLinear, update_ND: Tensor | None = None) -> Tensor:
    """The length of each row of a layer's weight, [N], in fp32 or wider; of the sum where there is an update."""
    weight_ND = layer.dequantized(dtype=torch.float32) if isinstance(layer, QuantizedLinear) else layer.weight.detach()
    wide = weight_ND.to(torch.promote_types(weight_ND.dtype, torch.float32))
    norms: Tensor = torch.linalg.vector_norm(wide if update_ND is None else wide + update_ND, dim=1)
    return norms


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise ModelError("adapter.no_config", where=str(folder))
    config: dict[str, Any] = DEFAULTS | read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise ModelError("adapter.other_kind", where=str(folder / CONFIG), given=config.get("peft_type"))
    for key, neutral in NEUTRAL.items():
        if config.get(key) not in neutral and key in config:
            raise ModelError("adapter.unsupported", where=str(folder / CONFIG), setting=key, given=config[key])
    return config


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a PEFT folder; ModelError for a pickled or damaged file, and where one is not finite."""
    if not (folder / WEIGHTS).is_file():
        pickled = next(iter(sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))), None)
        key = "adapter.pickle" if pickled else "adapter.no_weights"
        raise ModelError(key, where=str(pickled or folder / WEIGHTS))
    try:
        tensors: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ModelError("adapter.damaged", where=str(folder / WEIGHTS), reason=str(error)) from None
    for key, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ModelError("adapter.not_finite", where=f"{folder / WEIGHTS}: {key}")
    return tensors


def _read_halves(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Module name to its `lora_A` and `lora_B` tensors, and its magnitude where it has one."""
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_tensors(folder).items():
        match = re.fullmatch(r"base_model\.model\.(.+)\.(lora_[AB])(?:\.default)?\.weight", key)
        match = match or re.fullmatch(rf"base_model\.model\.(.+)\.({MAGNITUDE})", key)
        if match is None:
            raise ModelError("adapter.foreign_tensor", where=str(folder / WEIGHTS), given=key)
        halves.setdefault(match[1], {})[match[2]] = tensor
    return halves


def _scaling(config: dict[str, Any], name: str, rank: int) -> float:
    """alpha / rank of one module."""
    alpha = float(_for_module(config, "alpha_pattern", "lora_alpha", name))
    return alpha / (math.sqrt(rank) if config["use_rslora"] else rank)


def _for_module(config: dict[str, Any], pattern_key: str, key: str, name: str) -> Any:
    """A setting as PEFT finds it for one module: the first pattern that matches the end of its name, else the usual."""
    patterns = (config.get(pattern_key) or {}).items()
    return next((value for pattern, value in patterns if re.match(rf"(.*\.)?({pattern})$", name)), config[key])


# ---- layers that the checkpoint fuses


def _fuse(pairs: Mapping[str, Pair], model: Model) -> Iterator[tuple[str, Pair]]:
    """Pairs under the checkpoint's names. Parts of one fused layer become one pair: [A_1; A_2; …] and their B along
    the diagonal, with zero rows for a part that has none; A that all parts share stays as it is."""
    left = dict(pairs)
    for name in pairs:
        if name not in left:
            continue
        fused, stem = _fused_of(name, model)
        if fused is None:
            yield _module_name(name, model), left.pop(name)
            continue
        parts = [left.pop(f"{stem}{part}", None) for part in fused.parts]
        whole, layers = _block(parts, fused.sizes(model.spec)), [model.get_submodule(stem + p) for p in fused.parts]
        if any(part is not None and part.magnitude is not None for part in parts):
            whole = replace(whole, magnitude=_magnitudes(parts, layers))
        yield _module_name(name, model), whole


def _block(parts: Sequence[Pair | None], sizes: Sequence[int]) -> Pair:
    present = [part for part in parts if part is not None]
    scaling = present[0].scaling
    shares_A = all(torch.equal(part.A, present[0].A) for part in present)
    A = present[0].A if shares_A else torch.cat([part.A for part in present])
    B = torch.zeros(sum(sizes), A.shape[0])
    row = column = 0
    for part, size in zip(parts, sizes, strict=True):
        if part is not None:
            rank = part.B.shape[1]
            B[row : row + size, column : column + rank] = part.B * (part.scaling / scaling)
            column += 0 if shares_A else rank
        row += size
    return Pair(A, B, scaling, present[0].dropout)


def _magnitudes(parts: Sequence[Pair | None], layers: Sequence[nn.Module]) -> Tensor:
    """Of a fused layer: a part without a pair keeps its rows' own lengths."""
    found = []
    for part, layer in zip(parts, layers, strict=True):
        assert isinstance(layer, nn.Linear | QuantizedLinear), "fused layers are linear"
        found.append(row_norms(layer).cpu() if part is None or part.magnitude is None else part.magnitude)
    return torch.cat(found)


def _split(their_name: str, pair: Pair, model: Model, where: str) -> Iterator[tuple[str, Pair]]:
    """(our name, pair) for each of our layers that a checkpoint's layer stands for; all share A."""
    family = family_of(model.config)
    for prefix, ours in family.renames:
        if their_name.startswith(prefix):
            their_name = ours + their_name[len(prefix) :]
            break
    for fused in family.fused:
        if their_name.endswith("." + fused.name):
            sizes = fused.sizes(model.spec)
            if pair.B.shape[0] != sum(sizes):
                raise ModelError("adapter.shape", where=where, given=pair.B.shape[0], expected=sum(sizes))
            whole = pair.magnitude
            lengths = [None] * len(sizes) if whole is None else torch.split(whole, list(sizes))
            for part, rows, own in zip(fused.parts, torch.split(pair.B, list(sizes)), lengths, strict=True):
                yield their_name[: -len(fused.name)] + part, replace(pair, B=rows, magnitude=own)
            return
    yield their_name, pair


def _fused_of(name: str, model: Model) -> tuple[Fused | None, str]:
    """The fused layer that our layer is part of, and the name before both."""
    for fused in family_of(model.config).fused:
        for part in fused.parts:
            if name.endswith("." + part):
                return fused, name[: -len(part)]
    return None, name


def _module_name(name: str, model: Model) -> str:
    """What the checkpoint calls the layer that ours is, or is a part of."""
    fused, stem = _fused_of(name, model)
    name = f"{stem}{fused.name}" if fused else name
    for theirs, ours in family_of(model.config).renames:
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


# ---- small arithmetic


def _targets(names: set[str], module_names: set[str]) -> dict[str, Any]:
    """Ends such as `q_proj` where they mean exactly these modules, or do in some layers; else full names."""
    ends = {name.rpartition(".")[2] for name in names}
    meant = {name for name in module_names | names if name.rpartition(".")[2] in ends}
    if meant == names:
        return {"target_modules": sorted(ends)}
    layers = {layer_of(name) for name in names}
    # PEFT takes the last number of a name for the layer's, and experts have one of their own
    is_plain = all(len(re.findall(r"\.\d+\.", name)) == 1 for name in names)
    if is_plain and {name for name in meant if layer_of(name) in layers} == names:
        return {"target_modules": sorted(ends), "layers_to_transform": sorted(layers, key=int)}
    return {"target_modules": sorted(names)}


def _commonest(values: Any) -> Any:
    counted = list(values)
    return max(sorted(set(counted)), key=counted.count)


def as_saved(scaling: float, rank: int) -> float:
    """The scale as it will read when it comes back from a file, which holds alpha, to the last bit."""
    return _plain(scaling * rank) / rank


def _plain(alpha: float) -> float:
    """alpha from scaling · rank, free of the last bit's noise where a whole number was meant."""
    return float(round(alpha)) if math.isclose(alpha, round(alpha), rel_tol=1e-12) else alpha
