"""The contract of the shelf: an Adapter says which weights train; attached, it can fold them back.

`Adapter.attach(model) -> Attached`, and then `merge`, `save` and `disabled` on what is attached. Nothing here knows a
training loop: a trainer asks an Attached for its parameters, an exporter asks it to merge.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from danlu.model.model import Model


class Attached(Protocol):
    """An adapter in its place on one model."""

    @property
    def kind(self) -> str:
        """The adapter's name on the shelf."""
        ...

    @property
    def model(self) -> Model:
        """The model it is attached to."""
        ...

    @property
    def compute_dtype(self) -> torch.dtype:
        """In which the model multiplies, whatever its masters lie in."""
        ...

    @property
    def is_fresh(self) -> bool:
        """True while the adapted model computes exactly what the bare one does."""
        ...

    @property
    def can_disable(self) -> bool:
        """True when the bare model is still there beside the trained weights."""
        ...

    @property
    def offload(self) -> Literal["none", "masters", "all"]:
        """What of masters and moments lies in the machine's memory while this trains."""
        ...

    @property
    def has_masters_apart(self) -> bool:
        """Weights are bf16, and the optimizer keeps fp32 masters of them."""
        ...

    def parameters(self) -> dict[str, nn.Parameter]:
        """What trains, by name, in a stable order."""
        ...

    def disabled(self) -> AbstractContextManager[None]:
        """Inside the block the model answers as if nothing had been attached."""
        ...

    def settle(self) -> None:
        """Round what trains to what `save` would write, so that a stage starts from the same numbers whether the last
        one ended a moment ago or lies on disk."""
        ...

    def check(self) -> None:
        """Raise TrainingError when what was trained is empty or not finite."""
        ...

    def merge(self) -> None:
        """Fold what was trained into the model's weights (in fp32, then cast back); the adapter is gone after it."""
        ...

    def save(self, folder: Path) -> None:
        """Write the ecosystem's format: PEFT for low-rank pairs, a Hugging Face checkpoint for full weights."""
        ...


class Adapter(Protocol):
    """Which weights train."""

    @property
    def kind(self) -> str: ...

    def attach(self, model: Model) -> Attached:
        """Freeze what stays, make trainable what trains. One adapter at a time on a model."""
        ...


def layer_of(name: str) -> int | None:
    """The decoder layer that a parameter or module belongs to, by the number in its name; None for what lies around."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else None


def find_unsound(tensors: dict[str, Tensor]) -> str | None:
    """The name of the first tensor with a NaN or an infinity, or None."""
    return next((name for name, tensor in tensors.items() if not bool(tensor.detach().isfinite().all())), None)
