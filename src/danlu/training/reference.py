"""The reference of a method that holds its policy to something: the model as the stage found it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from danlu.adapters.adapter import Attached
from danlu.model.model import Model

AsFound = Callable[[], AbstractContextManager[None]]
"""Inside the block the model computes what it did when its stage began."""


def as_found(model: Model, attached: Attached) -> AsFound:
    """To be asked before the stage's first step. A fresh adapter is switched off; of one that has learnt before, and
    of all weights, a copy of what trains is kept (pairs are small, all weights are the model once more)."""
    if attached.is_fresh and attached.can_disable:
        return attached.disabled
    parameters = attached.parameters()
    found = {name: weight.detach().clone() for name, weight in parameters.items()}
    return lambda: _exchanged(model, parameters, found)


@contextlib.contextmanager
def _exchanged(model: Model, parameters: Mapping[str, nn.Parameter], found: Mapping[str, Tensor]) -> Iterator[None]:
    """The quick form keeps copies of pairs: without it the decoder reads them where they lie."""
    now = {name: weight.detach().clone() for name, weight in parameters.items()}
    quick, was_training = model.quick, model.training
    try:
        model.quick = None
        model.eval()  # nothing is dropped out of a reference
        _put(parameters, found)
        yield
    finally:
        _put(parameters, now)
        model.train(was_training)
        model.quick = quick


@torch.no_grad()
def _put(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, weight in parameters.items():
        weight.copy_(values[name])
