"""Checkpoints that survive SIGKILL at any moment: one folder per kept step, written whole or not at all.

`step-00000040/` holds `state.safetensors` (masters and optimizer, as named tensors), `state.json` (counters, best so
far, digests) and `weights/` (what can be shipped: a PEFT adapter or a Hugging Face checkpoint). No pickle. Random
states are absent on purpose: the trainer seeds by (seed, step), so a step's number says all there is to say.
Kept are the newest two, so that a damaged one has a predecessor, and the best, without its optimizer.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from safetensors import SafetensorError, safe_open
from torch import Tensor

from danlu.adapters.load import WEIGHTS_FOLDER, load_trained
from danlu.core.errors import TrainingError
from danlu.core.files import free_bytes, read_json, replacing_folder, sha256_file, sha256_json, write_json
from danlu.model.tensor_file import write_tensors

__all__ = ["Checkpoint", "find_best", "find_last", "load_trained", "prune", "read_newest", "write_checkpoint"]

STATE, TENSORS = "state.json", "state.safetensors"
VERSION = 1
SPARE_BYTES = 64 * 2**20
"""Left free on the disk after a checkpoint: events and reports are still to be written."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says: `state` as JSON, `tensors` by name, each read when it is asked for: together they may be
    larger than the memory that is left beside a model and its states."""

    folder: Path
    state: dict[str, Any]
    tensors: Mapping[str, Tensor]


class _Stored(Mapping[str, Tensor]):
    """The tensors of a safetensors file."""

    def __init__(self, path: Path) -> None:
        self._file: Any = safe_open(path, framework="pt")
        self._names = frozenset(self._file.keys())  # type: ignore[no-untyped-call]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def folder_of(folder: Path, number: int) -> Path:
    return folder / f"step-{number:08d}"


def write_checkpoint(
    folder: Path,
    number: int,
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    save_weights: Callable[[Path], None],
) -> Path:
    """Write the checkpoint of step `number`; afterwards its folder is there and whole. `save_weights` fills `weights/`.
    Raises TrainingError, with nothing written, when the disk is too full for it."""
    check_space(folder, tensors)
    place = folder_of(folder, number)
    with replacing_folder(place) as fresh:
        _save_tensors(tensors, fresh / TENSORS)
        save_weights(fresh / WEIGHTS_FOLDER)
        files = [path for path in sorted(fresh.rglob("*")) if path.is_file()]
        digests = {path.relative_to(fresh).as_posix(): sha256_file(path) for path in files}
        whole = {"version": VERSION, "number": number, "digests": digests, **state}
        write_json(fresh / STATE, {**whole, "digest": sha256_json(whole)})
    return place


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """What was copied from the device for this is let go before weights are copied once more."""
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_tensors(flat, path)


def check_space(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """The state, and the weights once more beside it, must fit."""
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) * 4 // 3 + SPARE_BYTES
    free = free_bytes(folder)
    if free < needed:
        raise TrainingError("training.disk_full", where=str(folder), needed_mb=needed >> 20, free_mb=free >> 20)


def read_newest(folder: Path, note: Callable[[str, str], None]) -> Checkpoint | None:
    """The newest checkpoint whose digests hold; None when there is none. `note(folder, reason)` tells of each damaged
    one that was passed over and set aside. What a killed process left half-written is removed."""
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for place in reversed(_places(folder)):
        try:
            return _read(place)
        except _DamagedError as damage:
            aside = place.with_name(f"damaged-{place.name}")
            shutil.rmtree(aside, ignore_errors=True)
            place.replace(aside)
            note(place.name, str(damage))
    return None


def prune(folder: Path, best: int | None) -> None:
    """Keep the newest two, and of the best one, when it is older, what can be shipped."""
    for place in _places(folder)[:-2]:
        if best is not None and place == folder_of(folder, best):
            (place / TENSORS).unlink(missing_ok=True)
        else:
            shutil.rmtree(place)


def find_last(folder: Path) -> Path | None:
    """The newest checkpoint's folder."""
    places = _places(folder)
    return places[-1] if places else None


def find_best(folder: Path) -> Path | None:
    """The folder of the checkpoint with the lowest validation loss; the newest where nothing was validated."""
    last = find_last(folder)
    if last is None:
        return None
    best = read_json(last / STATE)["best"]
    place = folder_of(folder, best["number"]) if best else last
    return place if place.is_dir() else last


class _DamagedError(Exception):
    """A checkpoint that cannot be gone on from."""


def _places(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _read(place: Path) -> Checkpoint:
    try:
        state = read_json(place / STATE)
        if (
            state["version"] != VERSION
            or sha256_json({k: v for k, v in state.items() if k != "digest"}) != state["digest"]
        ):
            raise _DamagedError(STATE)
        for name, digest in state["digests"].items():
            if sha256_file(place / name) != digest:
                raise _DamagedError(name)
        return Checkpoint(place, state, _Stored(place / TENSORS))
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, SafetensorError) as error:
        raise _DamagedError(str(error)) from error
