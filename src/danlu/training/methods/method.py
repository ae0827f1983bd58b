"""The contract of the shelf: a Method says which samples it learns from and what the loss of a batch is.

The loop knows nothing else of it. Losses are sums over units (tokens, or pairs), so that the loop can divide by the
units of a whole optimizer step, however many pieces it was computed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from danlu.adapters.adapter import Attached
from danlu.core.progress import Progress
from danlu.data.sample import Kind
from danlu.model.model import Model
from danlu.training.batches import Batch


@dataclass(frozen=True, slots=True)
class Loss:
    """`value`: the differentiable sum over `num_units`; `metrics`: sums over the same, never fetched here."""

    value: Tensor
    num_units: int
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stage:
    """What a method may look at before the first step: the model as it starts, and one pass over any part."""

    model: Model
    attached: Attached
    folder: Path
    digest: str
    """Of data and starting weights; what is kept in `folder` is only valid with it."""
    num_items: dict[str, int]
    batches: Callable[[str], Iterator[Batch]]
    forward: Callable[[], AbstractContextManager[object]]
    """The context that forwards run in, autocast or none."""
    progress: Progress
    is_resumed: bool


class Method(Protocol):
    """What is learnt."""

    @property
    def kind(self) -> str:
        """Its name on the shelf."""
        ...

    @property
    def accepts(self) -> frozenset[Kind]:
        """The kinds of samples it learns from."""
        ...

    @property
    def betas(self) -> tuple[float, float]:
        """AdamW's decay rates that suit it."""
        ...

    def begin(self, stage: Stage) -> None:
        """Called once, before weights are restored from a checkpoint."""
        ...

    def num_units(self, batch: Batch) -> int:
        """Over how many units `loss` will sum."""
        ...

    def loss(self, model: Model, batch: Batch) -> Loss: ...
