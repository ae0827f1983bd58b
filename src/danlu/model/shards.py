"""A checkpoint's files before any tensor is loaded: which shards there are, whether each is a whole safetensors
file, what stands in its header. Pickle is refused by name and by content: opening one runs code.

Torch-free, so that downloads and plans can ask too. Format: 8 bytes little-endian header length, JSON header, raw
tensors (github.com/huggingface/safetensors).
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.errors import ModelError
from danlu.core.files import read_json, sha256_file, sha256_json
from danlu.core.messages import listed

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a shard."""

    dtype: str
    shape: tuple[int, ...]


def find_shards(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder; an index names them, else the single file, else the only one
    there."""
    if (folder / INDEX).is_file():
        return _indexed(folder)
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    found = sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("adapter_"))
    if len(found) == 1:
        return found
    if found:
        raise ModelError("model.index_missing", where=str(folder), files=listed(p.name for p in found), index=INDEX)
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES and not is_harmless(p.name))
    if pickles:
        raise ModelError("model.pickle", where=str(folder / pickles[0]))
    raise ModelError("model.no_weights", where=str(folder), expected=f"{SINGLE} / {INDEX}")


def is_harmless(name: str) -> bool:
    """training_args.bin and the like lie in many folders and are never opened."""
    return name.startswith(("training_args", "optimizer", "scheduler", "rng_state"))


def read_header(path: Path) -> dict[str, Entry]:
    """Tensor name → dtype and shape. Refuses what is not a whole safetensors file, naming it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(9)
        refuse_pickle(path, first)
        length = int.from_bytes(first[:8], "little") if len(first) == 9 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise ModelError("model.corrupt", where=str(path), why=f"header of {length} bytes in a file of {size}")
        raw = first[8:] + file.read(length - 1)
    try:
        header: dict[str, Any] = json.loads(raw)
        entries = {name: item for name, item in header.items() if name != "__metadata__"}
        spans = sorted(tuple(item["data_offsets"]) for item in entries.values())
        out = {name: Entry(item["dtype"], tuple(item["shape"])) for name, item in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError("model.corrupt", where=str(path), why=f"unreadable header: {error}") from error
    end = 0
    for start, stop in spans:
        if start != end or stop < start:
            raise ModelError("model.corrupt", where=str(path), why=f"tensors overlap or leave a gap at byte {end}")
        end = stop
    if 8 + length + end != size:
        raise ModelError("model.corrupt", where=str(path), why=f"{8 + length + end} bytes announced, {size} there")
    return out


def refuse_pickle(path: Path, first: bytes) -> None:
    """By name and by content: zip (torch.save) and the pickle opcodes, also under a .safetensors name."""
    is_zip = first[:4] == b"PK\x03\x04"
    # A real header length may begin with 0x80 0x02 as well, but then JSON follows it.
    is_bare = first[:1] == b"\x80" and first[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and first[8:9] != b"{"
    if is_zip or is_bare or path.suffix in PICKLE_SUFFIXES:
        raise ModelError("model.pickle", where=str(path))


def digest_folder(folder: Path) -> str:
    """sha256 over config.json and every shard's content."""
    shards = {path.name: sha256_file(path) for path in find_shards(folder)}
    return sha256_json({"config": read_json(folder / "config.json"), "shards": shards})


def known_digest(folder: Path) -> str:
    """`digest_folder`, read once per process while size and times of every file stay as they are: many gigabytes."""
    files = [folder / "config.json", *find_shards(folder)]
    states = ((path, path.stat()) for path in files)
    return _digest_as_of(folder, tuple((path.name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in states))


@functools.lru_cache(maxsize=32)
def _digest_as_of(folder: Path, files: tuple[tuple[str, int, int, int], ...]) -> str:
    return digest_folder(folder)


def _indexed(folder: Path) -> list[Path]:
    try:
        names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError("model.corrupt", where=str(folder / INDEX), why=str(error)) from error
    for name in names:
        if "/" in name or "\\" in name or name.startswith("."):
            raise ModelError("model.corrupt", where=str(folder / INDEX), why=f"a shard outside the folder: {name!r}")
        if not (folder / name).is_file():
            raise ModelError("model.shard_missing", where=str(folder / INDEX), file=name)
    return [folder / name for name in names]
