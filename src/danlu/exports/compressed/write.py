"""A merged model as a `compressed-tensors` checkpoint: codes and scales in place of the blocks' linear weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from danlu.core.errors import ExportError
from danlu.core.files import sync_folder, write_json
from danlu.exports.compressed.schemes import SCALE, Scheme
from danlu.exports.structure import coded_weights, config_of
from danlu.model.build import family_of
from danlu.model.decoder import Decoder
from danlu.model.model import Model
from danlu.model.shards import INDEX, SINGLE
from danlu.model.tensor_file import write_tensors
from danlu.model.weights import SHARD_BYTES, fuse


def write_compressed(model: Model, folder: Path, scheme: Scheme, stored: torch.dtype) -> None:
    """config.json and weights; what is not a linear layer of the blocks lies in `stored`, and so do the scales."""
    if not isinstance(model, Decoder):
        raise ExportError("compressed.foreign", where="exports: vllm", given=model.config.get("model_type"))
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(_tensors(model, scheme, stored), folder)
    write_json(folder / "config.json", config_of(model, stored, scheme.header()))


def _tensors(model: Decoder, scheme: Scheme, stored: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) as the file has them: fused layers whole."""
    coded, whole = coded_weights(model), {name: weight.detach() for name, weight in model.named_parameters()}
    for name, weight in fuse(whole, family_of(model.config)).items():
        if name in coded:
            codes, scale = scheme.codes(weight.cpu(), stored)
            yield name, codes
            yield name + SCALE, scale
        else:
            yield name, weight.to(device="cpu", dtype=stored).contiguous()


def write_shards(tensors: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    """Files of at most SHARD_BYTES, numbered when their number is known."""
    places: dict[str, Path] = {}
    parts: list[Path] = []
    shard: dict[str, Tensor] = {}
    total = 0

    def flush() -> None:
        part = folder / f".shard-{len(parts)}.tmp"
        write_tensors(shard, part)
        parts.append(part)
        places.update(dict.fromkeys(shard, part))
        shard.clear()

    for name, tensor in tensors:
        if shard and sum(map(num_bytes, shard.values())) + num_bytes(tensor) > SHARD_BYTES:
            flush()
        shard[name] = tensor
        total += num_bytes(tensor)
    flush()
    names = [SINGLE] if len(parts) == 1 else [
        f"model-{at:05d}-of-{len(parts):05d}.safetensors" for at in range(1, len(parts) + 1)
    ]  # fmt: skip
    named = dict(zip(parts, names, strict=True))
    for part, name in named.items():
        part.replace(folder / name)
    if len(parts) > 1:
        weight_map = {tensor: named[part] for tensor, part in places.items()}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    sync_folder(folder)


def num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
