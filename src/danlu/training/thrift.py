"""What memory has taught a training: how little its layers keep and how few items are computed at once by now.

It lies beside the checkpoints and is written the moment it changes, so that a resumed training does not meet the same
end again, and sums gradients as the interrupted one did. It holds for the training, the device and the plan it was
learnt with; elsewhere memory teaches anew.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import torch

from danlu.core.files import read_json, write_json

FILE = "memory.json"


@dataclass(frozen=True, slots=True)
class Thrift:
    """`policies` of the layers, empty where they follow none; `most_items` at once, 0 as planned; `keeps_gradients`
    where they were to be applied within the backward and are added up over pieces instead."""

    policies: tuple[str, ...] = ()
    most_items: int = 0
    keeps_gradients: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """What a lesson holds for: the training, the device's memory, and the policies that were planned."""

    training: str
    device_bytes: int
    planned: tuple[str, ...]

    @classmethod
    def of(cls, training: str, device: torch.device, planned: tuple[str, ...]) -> Setting:
        is_cuda = device.type == "cuda"
        return cls(training, torch.cuda.get_device_properties(device).total_memory if is_cuda else 0, planned)


def write_thrift(folder: Path, setting: Setting, thrift: Thrift) -> None:
    write_json(folder / FILE, asdict(setting) | asdict(thrift))


def read_thrift(folder: Path, setting: Setting) -> Thrift | None:
    """What was learnt in this setting; None where nothing was."""
    try:
        found: dict[str, Any] = read_json(folder / FILE)
        there = Setting(found["training"], found["device_bytes"], tuple(found["planned"]))
        thrift = Thrift(tuple(found["policies"]), int(found["most_items"]), bool(found["keeps_gradients"]))
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
    return thrift if there == setting else None
