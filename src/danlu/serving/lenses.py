"""A lens before any engine sees it: is this artefact whole, proven, and an adapter of that base? Torch-free.

Engines die of what they were not made for (an adapter with another rank, a module that is not there, NaN), and take
everything that runs on them along; so each file is looked at here, tensor by tensor, before the first replica loads it.
A lens is named by its content, `<name>@<first 12 of the digest>`: a name never means two things, so neither an engine's
prefix cache nor a client can hold old answers for new ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from danlu.core.errors import EngineError
from danlu.core.files import read_json, sha256_json
from danlu.data.contract import Contract
from danlu.exports.verify import verify
from danlu.model.shards import Entry, find_shards, read_header, refuse_pickle
from danlu.run.artifact import Manifest
from danlu.serving.board import Lens
from danlu.serving.chat_format import ChatFormat
from danlu.serving.drivers import DRIVERS
from danlu.serving.drivers.about import ADAPTERS, PEFT_ADAPTERS
from danlu.serving.drivers.tool_parsers import reads_calls
from danlu.serving.engine_check import chat_format_of, encoder_of
from danlu.serving.pool_plan import PoolPlan, quantize_of

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.(?P<side>lora_[AB])\.weight")
_FLOATS: dict[str, tuple[str, int, int]] = {
    "F64": ("<u8", 8, 0x7FF << 52), "F32": ("<u4", 4, 0x7F800000), "F16": ("<u2", 2, 0x7C00),
    "BF16": ("<u2", 2, 0x7F80),
}  # fmt: skip
"""By safetensors' name: numpy's type of the bare bits, bytes, the exponent's bits. All of these set: infinite, or no
number."""
_CHANGES_MATHEMATICS = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "layer_replication")
_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class OpenedLens:
    """A lens with what it is made of: an adapter's folder, or the model itself (`lens.is_base`). Nothing is known of
    what lies behind a URL."""

    lens: Lens
    pool: PoolPlan
    folder: Path | None
    manifest: Manifest | None


def lens_name(name: str, digest: str) -> str:
    return f"{name}@{digest[:12]}"


def is_adapter(manifest: Manifest) -> bool:
    return manifest.kind in ADAPTERS


def open_lens(folder: Path, pool_for: Callable[[Path, Manifest], PoolPlan], *, label: str = "") -> OpenedLens:
    """An artefact through the door: files, contract and proof first (`verify`), then, an adapter's tensors. Reads all
    of it: seconds, and in a thread of its own where others wait."""
    manifest = verify(folder)
    pool = pool_for(folder, manifest)
    if is_adapter(manifest):
        look_through(folder, manifest, pool)
    name, chat_format = lens_name(manifest.name, manifest.digest), _chat_format(folder, manifest, pool)
    lens = Lens(
        name, pool.name, not is_adapter(manifest), label, context=pool.spec.context,
        takes_tools=reads_calls(pool.driver, folder), chat_format=chat_format,
    )  # fmt: skip
    return OpenedLens(lens, pool, folder, manifest)


def open_url(model: str, pool: PoolPlan, artifact: Path | None = None) -> OpenedLens:
    """What answers behind a URL. What it is said to run may lie here as an artefact, to be compared; else nothing of it
    is known but its name."""
    name = lens_name(model, sha256_json([pool.spec.url, pool.spec.name]))
    if artifact is None:
        return OpenedLens(Lens(name, pool.name, is_base=True, context=pool.spec.context), pool, None, None)
    manifest = verify(artifact)
    chat_format = _chat_format(artifact, manifest, pool)
    lens = Lens(name, pool.name, is_base=True, context=pool.spec.context, chat_format=chat_format)
    return OpenedLens(lens, pool, artifact, manifest)


def _chat_format(folder: Path, manifest: Manifest, pool: PoolPlan) -> ChatFormat:
    contract = Contract.from_json(manifest.contract)
    return chat_format_of(contract, encoder_of(contract, folder), DRIVERS.load(pool.driver).can)


def look_through(folder: Path, manifest: Manifest, pool: PoolPlan) -> None:
    """Refuse an adapter that does not belong on this pool's base: EngineError says what was found and what was
    expected. Its files are those of its manifest by now."""
    where = str(folder)
    if manifest.kind not in pool.takes:
        raise EngineError("rollout.kind", where=where, given=manifest.kind, expected=", ".join(pool.takes))
    if pool.base_digest and manifest.base.get("digest") != pool.base_digest:
        given = str(manifest.base.get("digest"))[:12]
        raise EngineError("rollout.base", where=where, given=given, expected=pool.base_digest[:12], pool=pool.name)
    if (quantize := quantize_of(manifest)) != pool.spec.quantize:
        raise EngineError("rollout.quantize", where=where, given=quantize, expected=pool.spec.quantize, pool=pool.name)
    spoken = manifest.contract["template_digest"]
    if pool.template_digest and spoken != pool.template_digest:
        raise EngineError("rollout.template", where=where, given=spoken[:12], expected=pool.template_digest[:12])
    if manifest.kind in PEFT_ADAPTERS:
        _check_settings(folder, pool)
        _check_tensors(folder, pool)


def _check_settings(folder: Path, pool: PoolPlan) -> None:
    config = _settings(folder)
    strange = [key for key in _CHANGES_MATHEMATICS if config.get(key)]
    strange += [] if config.get("bias") in (None, "none") else ["bias"]
    if config.get("peft_type") != "LORA" or strange:
        given = ", ".join(strange) or str(config.get("peft_type"))
        raise EngineError("rollout.settings", where=str(folder / CONFIG), given=given)
    rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    if pool.max_rank and rank > pool.max_rank:
        raise EngineError("rollout.rank", where=str(folder / CONFIG), given=rank, most=pool.max_rank)


def _settings(folder: Path) -> dict[str, Any]:
    try:
        config = read_json(folder / CONFIG)
        if isinstance(config, dict) and (isinstance(config.get("r"), int) or config.get("peft_type") != "LORA"):
            return config
    except (OSError, orjson.JSONDecodeError):
        pass
    raise EngineError("rollout.settings", where=str(folder / CONFIG), given="-")


def _check_tensors(folder: Path, pool: PoolPlan) -> None:
    """Safetensors only; whole pairs A [R, D], B [N, R] of modules [N, D] that the base has; each value finite."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                refuse_pickle(path, file.read(9))
    path = folder / WEIGHTS
    header = read_header(path)
    base = _base_shapes(pool)
    pairs: dict[str, dict[str, Entry]] = {}
    for name, entry in header.items():
        match = _TENSOR.fullmatch(name)
        if match is None or entry.dtype not in _FLOATS or len(entry.shape) != 2:
            raise EngineError("rollout.tensor", where=str(path), given=f"{name} {entry.dtype} {list(entry.shape)}")
        pairs.setdefault(match["module"], {})[match["side"]] = entry
    if not pairs:
        raise EngineError("rollout.tensor", where=str(path), given="-")
    for module, sides in pairs.items():
        _check_pair(module, sides, base, path, pool)
    _check_finite(path)


def _check_pair(
    module: str, sides: Mapping[str, Entry], base: Mapping[str, tuple[int, ...]], path: Path, pool: PoolPlan
) -> None:
    if len(sides) != 2:
        raise EngineError("rollout.tensor", where=str(path), given=f"{module}: {', '.join(sides)}")
    (rank, num_in), (num_out, rank_B) = sides["lora_A"].shape, sides["lora_B"].shape
    if base and f"{module}.weight" not in base:
        raise EngineError("rollout.module", where=str(path), given=module)
    expected = base.get(f"{module}.weight", (num_out, num_in))
    if (num_out, num_in) != expected or rank != rank_B:
        given = f"{module}: A {[rank, num_in]}, B {[num_out, rank_B]}"
        raise EngineError("rollout.shape", where=str(path), given=given, expected=list(expected))
    if pool.max_rank and rank > pool.max_rank:
        raise EngineError("rollout.rank", where=f"{path}: {module}", given=rank, most=pool.max_rank)


def _base_shapes(pool: PoolPlan) -> dict[str, tuple[int, ...]]:
    """Shapes [N, D] of the base's matrices by name; empty where the base is no safetensors folder. Weights that are
    packed (quantised) have other shapes on disk: they are left out, and with them the comparison."""
    folder = pool.spec.folder
    if folder is None or not folder.is_dir() or not (folder / "config.json").is_file():
        return {}
    entries = {name: entry for shard in find_shards(folder) for name, entry in read_header(shard).items()}
    if any(entry.dtype not in _FLOATS for name, entry in entries.items() if name.endswith(".weight")):
        return {}
    return {name: entry.shape for name, entry in entries.items() if len(entry.shape) == 2}


def _check_finite(path: Path) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = orjson.loads(file.read(length))
    for name, item in header.items():
        if name == "__metadata__" or item["data_offsets"][0] == item["data_offsets"][1]:
            continue
        bits_as, size, exponent = _FLOATS[item["dtype"]]
        start, end = item["data_offsets"]
        bits = np.memmap(path, dtype=bits_as, mode="r", offset=8 + length + start, shape=((end - start) // size,))
        mask = bits.dtype.type(exponent)
        for at in range(0, len(bits), _BLOCK):
            if np.any((bits[at : at + _BLOCK] & mask) == mask):
                raise EngineError("rollout.not_finite", where=str(path), given=name)
