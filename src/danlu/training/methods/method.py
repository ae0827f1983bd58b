"""The contract of the shelf: a Method says which samples it learns from and what the loss of a batch is.

The loop knows nothing else of it. Losses are sums over units (tokens, or pairs), so that the loop can divide by the
units of a whole optimizer step, however many pieces it was computed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from danlu.adapters.adapter import Attached
from danlu.core.progress import Progress
from danlu.data.dataset import Part
from danlu.data.sample import Kind
from danlu.data.tokens import Tokens
from danlu.model.model import Model
from danlu.training.batches import Batch, Items


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


@dataclass(frozen=True, slots=True)
class Rollout:
    """What the model has just answered: `documents` to learn from, each to a row of the train part, `items`; and sums
    of what is to be told of them, over whatever `OnPolicy.told` divides by."""

    documents: list[Tokens]
    items: Items
    sums: dict[str, float]


@runtime_checkable
class OnPolicy(Protocol):
    """A Method whose documents lie in no dataset: for each step the model answers rows anew, as it is then."""

    def expected_tokens(self, part: Part) -> tuple[Items, int]:
        """At most how many tokens each row's document will have, and how many documents there will be of it."""
        ...

    def roll_out(self, items: Items, number: int) -> Rollout:
        """Answers to these rows for step `number`; the same ones whenever they are asked for with the same weights."""
        ...

    def judge(self, part: str, items: Items) -> dict[str, float]:
        """Sums, as a Rollout's, of one likeliest answer to each of these rows."""
        ...

    def told(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Figures for people, of sums over all ranks. `reward` is among them, and higher is better."""
        ...
