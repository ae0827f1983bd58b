"""Where to compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from danlu.core.errors import TrainingError


def choose_device(device: str = "auto") -> str:
    """`auto` is the GPU where there is one, else the CPU."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def describe_hardware(device: str) -> str:
    """One line for reports."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()} · torch {torch.__version__}"
    return f"CPU, {torch.get_num_threads()} threads · torch {torch.__version__}"


@contextlib.contextmanager
def saying_when_memory_ends(where: str) -> Iterator[None]:
    """The device's memory running out is told with the knob that helps."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError("pipeline.out_of_memory", where=where, why=str(error).partition("\n")[0][:300]) from error
