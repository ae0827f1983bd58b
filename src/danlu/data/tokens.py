"""Tokens: ids and loss weights of one sample. The encoder that makes them stands in `encode.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Weights = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Tokens:
    """ids_T int32; weights_T uint8, 1 where the token is to be learnt (predicted), 0 where it is only context.

    weights[i] speaks of ids[i] as a *target*; the shift by one happens in the loss, nowhere else.
    """

    ids: Ids
    weights: Weights

    def __post_init__(self) -> None:
        assert self.ids.shape == self.weights.shape and self.ids.ndim == 1, "ids and weights are of one length"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_supervised(self) -> int:
        """Tokens that a causal model is asked to predict; the first one never is."""
        return int(self.weights[1:].sum())


@dataclass(frozen=True, slots=True)
class Item:
    """What a dataset holds as one: a document or conversation (one Tokens), or a preference pair (chosen, rejected)."""

    tokens: tuple[Tokens, ...]
    origin: str = ""
    """`file:line` of the row it was made from."""
    group: str | None = None
    sample: str = ""
    """Id of the sample it was made from."""
    asked: dict[str, Any] | None = None
    """The sample itself as JSON, where answers to it are to be judged and not learnt."""
