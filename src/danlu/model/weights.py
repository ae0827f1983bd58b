"""Tensors between a checkpoint folder and a model: names translated by the family's tables, every tensor accounted for.

Loading goes tensor by tensor from the memory-mapped file straight into its place in the wanted dtype (or quantised), so
the peak is the model plus one tensor. Saving writes Hugging Face names, so that transformers loads the folder
unchanged. Safetensors only.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from danlu.core.errors import ModelError
from danlu.core.files import read_json, replacing_folder, sync_folder, write_json
from danlu.core.messages import listed
from danlu.model import bnb
from danlu.model.families.family import Family, Fused
from danlu.model.model import Model
from danlu.model.quantized import HEADS, make_room, put
from danlu.model.quantizers.nf4 import NF4Linear
from danlu.model.quantizers.quantizer import Quantize, QuantizedLinear
from danlu.model.shards import INDEX, SINGLE, find_shards, read_header
from danlu.model.spec import Spec
from danlu.model.stored import Stored
from danlu.model.tensor_file import write_tensors
from danlu.ops.nf4 import NF4, dequantise, rows_of

SHARD_BYTES = 5_000_000_000
BESIDE_WEIGHTS = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
DTYPE_NAMES = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32", torch.float64: "float64"}


# ---- in


def load_weights(
    model: Model, folder: Path, family: Family, *, dtype: torch.dtype, device: torch.device, quantize: Quantize = "none"
) -> list[str]:
    """Fill a model made on the meta device. Missing, unexpected and misshapen tensors are all named at once. Returns
    what the family's checkpoints may lack and this one does: made room for, not filled.

    With `quantize` each weight of a linear layer is quantised where it lands, so the device never holds more than one
    in full. A weight that is stored in NF4 is taken as it is, or dequantised where `quantize` is "none".
    """
    missing = dict(model.named_parameters())
    unexpected, misshapen = [], []
    with Stored(folder) as stored:
        if stored.is_quantized and quantize not in ("none", NF4Linear.kind):
            raise ModelError("model.quantized_already", where=str(folder), given=quantize)
        if not stored.is_quantized and quantize != "none":
            make_room(model, quantize, dtype)
        for their_name in stored.names:
            if is_left_out(their_name, model.spec) or their_name.startswith(family.left_out):
                continue
            for name, tensor in split_stored(their_name, stored.read(their_name), family, model.spec):
                hole = missing.pop(name, None)
                if hole is None:
                    unexpected.append(their_name)
                elif tuple(hole.shape) != tuple(tensor.shape):
                    misshapen.append(f"{name}: {list(tensor.shape)} ≠ {list(hole.shape)}")
                elif isinstance(tensor, NF4):
                    place_packed(model, name, tensor, dtype=dtype, device=device, is_kept=quantize != "none")
                else:
                    place(model, name, tensor, dtype=dtype, device=device)
    lacking = {name: missing.pop(name) for name in list(missing) if name.startswith(family.may_lack)}
    if missing or unexpected or misshapen:
        raise differ(folder, missing=list(missing), unexpected=unexpected, misshapen=misshapen)
    for name, hole in lacking.items():
        place(model, name, torch.empty(hole.shape), dtype=dtype, device=device)
    return list(lacking)


def load_state(model: Model, folder: Path, family: Family) -> None:
    """Copy a checkpoint's tensors into a model that already lives, keeping its parameters (and any optimizer's hold
    on them)."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for path in find_shards(folder):
            read_header(path)
            with safe_open(path, framework="pt", device="cpu") as file:
                for their_name in file.keys():  # noqa: SIM118 - not a dict
                    if is_left_out(their_name, model.spec):
                        continue
                    for name, tensor in split(their_name, file.get_tensor(their_name), family, model.spec):
                        if name not in own or own[name].shape != tensor.shape:
                            raise differ(path, unexpected=[their_name])
                        own.pop(name).copy_(tensor)
    if own:
        raise differ(folder, missing=list(own))


def is_left_out(name: str, spec: Spec) -> bool:
    """Tensors without a place here: a tied head stored twice, and the angle tables of old Llama files."""
    return name.endswith("rotary_emb.inv_freq") or (spec.is_tied and name.endswith("lm_head.weight"))


def place(model: nn.Module, name: str, tensor: Tensor, *, dtype: torch.dtype, device: torch.device) -> None:
    """Put a tensor where a meta parameter stood. Always a copy: a view of the mapped file would change with the
    file."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if isinstance(module, QuantizedLinear) and leaf == "weight":
        module.take(tensor.to(device))
        return
    fresh = torch.empty(tensor.shape, dtype=dtype, device=device)
    fresh.copy_(tensor)
    setattr(module, leaf, nn.Parameter(fresh))


def place_packed(
    model: nn.Module, name: str, packed: NF4, *, dtype: torch.dtype, device: torch.device, is_kept: bool
) -> None:
    """Put a weight that comes in NF4 where a meta parameter stood: as it is if `is_kept` and a linear layer of the
    blocks wants it, else dequantised."""
    owner = name.rpartition(".")[0]
    layer = model.get_submodule(owner)
    if is_kept and isinstance(layer, nn.Linear) and owner.rpartition(".")[2] not in HEADS:
        fresh = NF4Linear.in_place_of(layer, dtype)
        fresh.bias, fresh.packed = layer.bias, packed.to(device)
        put(model, owner, fresh)
    else:
        place(model, name, dequantise(packed.to(device), dtype=dtype), dtype=dtype, device=device)


def split_stored(
    their_name: str, tensor: Tensor | NF4, family: Family, spec: Spec
) -> Iterator[tuple[str, Tensor] | tuple[str, NF4]]:
    """`split` for weights that may be packed."""
    if isinstance(tensor, Tensor):
        yield from split(their_name, tensor, family, spec)
        return
    parts = list(split(their_name, torch.empty(tensor.shape, device="meta"), family, spec))
    sizes = [len(part) for _, part in parts]
    if len(parts) == 1:
        yield parts[0][0], tensor
    elif any(size * tensor.shape[1] % tensor.block for size in sizes[:-1]):
        raise ModelError("model.quantized_bnb", where=their_name, given=f"{sizes} × {tensor.shape[1]}")
    else:
        yield from zip((name for name, _ in parts), rows_of(tensor, sizes), strict=True)


def split(their_name: str, tensor: Tensor, family: Family, spec: Spec) -> Iterator[tuple[str, Tensor]]:
    """(our name, tensor) for each part that a checkpoint's tensor holds."""
    for prefix, ours in family.renames:
        if their_name.startswith(prefix):
            their_name = ours + their_name[len(prefix) :]
            break
    for ending, ours in family.endings:
        if their_name.endswith(ending):
            their_name = their_name.removesuffix(ending) + ours
    for fused in family.fused:
        stem, _, kind = their_name.rpartition(".")
        if stem.endswith("." + fused.name):
            start = stem[: -len(fused.name)]
            sizes = fused.sizes(spec)
            if tensor.shape[0] != sum(sizes):
                raise differ(their_name, misshapen=[f"{tensor.shape[0]} rows ≠ {sum(sizes)}"])
            for part, rows in zip(fused.parts, torch.split(tensor, list(sizes)), strict=True):
                yield f"{start}{part}.{kind}", rows
            return
    yield their_name, tensor


# ---- out


def save_model(model: Model, folder: Path, family: Family, dtype: torch.dtype) -> None:
    """Write config.json, weights and the tokenizer's files so that transformers loads the folder unchanged.

    A new or empty folder appears whole or not at all. In a folder that already holds files each file is replaced
    whole, config.json last. `dtype` is the dtype on disk, None the parameters' own.
    """
    if folder.is_dir() and any(folder.iterdir()):
        _write_all(model, folder, family, dtype)
    else:
        with replacing_folder(folder) as fresh:
            _write_all(model, fresh, family, dtype)


def fuse(state: dict[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Our tensors under the checkpoint's names, fused parts stacked again; the reverse of `split`."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for fused in family.fused:
            their_name = _fused_name(name, fused)
            if their_name is not None:
                if their_name not in out:
                    stem, kind = name[: name.rindex(fused.parts[0])], name.rpartition(".")[2]
                    out[their_name] = torch.cat([state[f"{stem}{part}.{kind}"] for part in fused.parts])
                break
        else:
            out[_their_prefix(name, family)] = tensor
    return out


def _fused_name(name: str, fused: Fused) -> str | None:
    """The checkpoint's name of the stack that `name` goes into, if `name` is its first part; "" of a later part."""
    stem, _, kind = name.rpartition(".")
    for part in fused.parts:
        if stem.endswith("." + part):
            return f"{stem[: -len(part)]}{fused.name}.{kind}"
    return None


def _their_prefix(name: str, family: Family) -> str:
    for theirs, ours in family.renames:
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def _write_all(model: Model, folder: Path, family: Family, dtype: torch.dtype) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    _write_shards(fuse(state, family), folder, dtype)
    copy_beside(model.folder, folder)
    config = {
        key: item for key, item in model.config.items() if key not in ("torch_dtype", "dtype", "quantization_config")
    }
    # transformers 4 reads `torch_dtype`, 5 reads either.
    write_json(folder / "config.json", config | {"torch_dtype": DTYPE_NAMES[dtype]})


def copy_beside(source: Path, folder: Path) -> None:
    """Tokenizer, template and generation settings go along with the weights."""
    for name in BESIDE_WEIGHTS:
        if (source / name).is_file() and source != folder:
            shutil.copyfile(source / name, folder / name)


def _write_shards(state: dict[str, Tensor], folder: Path, dtype: torch.dtype) -> None:
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in state.items():
        num_bytes = tensor.numel() * dtype.itemsize
        if shards[-1] and size + num_bytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += num_bytes
    names = [SINGLE] if len(shards) == 1 else [
        f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)
    ]  # fmt: skip
    for file_name, members in zip(names, shards, strict=True):
        tensors = {name: state[name].to(device="cpu", dtype=dtype).contiguous() for name in members}
        part = folder / f".{file_name}.tmp"
        write_tensors(tensors, part)
        part.replace(folder / file_name)
        sync_folder(folder)
    if len(shards) > 1:
        weight_map = {name: file for file, members in zip(names, shards, strict=True) for name in members}
        total = sum(tensor.numel() for tensor in state.values()) * dtype.itemsize
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    _drop_stale(folder, set(names))


def _drop_stale(folder: Path, current: set[str]) -> None:
    """Shards of an earlier save under other names would be read, or counted, with the new ones."""
    if len(current) == 1:
        (folder / INDEX).unlink(missing_ok=True)
    for path in folder.glob("model*.safetensors"):
        if path.name not in current:
            path.unlink()


def differ(
    where: Path | str, *, missing: Sequence[str] = (), unexpected: Sequence[str] = (), misshapen: Sequence[str] = ()
) -> ModelError:
    """The error of weights that do not fit, with the first few names of each kind."""
    return ModelError(
        "model.tensors_differ", where=str(where),
        missing=some(missing), unexpected=some(unexpected), misshapen=some(misshapen),
    )  # fmt: skip


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more."""
    if not names:
        return "-"
    rest = f" (+{len(names) - most})" if len(names) > most else ""
    return listed(names[:most]) + rest


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder, refused where it wants to run its own code."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError("model.no_config", where=str(folder))
    try:
        config = read_json(path)
    except ValueError as error:
        raise ModelError("model.corrupt", where=str(path), why=str(error)) from error
    if not isinstance(config, dict) or not config.get("model_type"):
        raise ModelError("model.config_key_missing", where=str(path), name="model_type", family="?")
    if config.get("auto_map"):
        raise ModelError("model.remote_code", where=str(path), classes=listed(map(str, config["auto_map"])))
    if config.get("quantization_config"):
        bnb.check_config(config["quantization_config"], str(path))
    return config
