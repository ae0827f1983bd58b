"""The dataset's card: what is in it, where it came from, what was decided. Plain JSON beside the tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Card:
    """`facts` hold what whoever prepared the data knows (over-length policy, split certificate, ...)."""

    name: str = ""
    vocab_size: int | None = None
    """Decides the width of stored ids: 16 bits up to 65,536, else 32."""
    contract_digest: str = ""
    tokenizer_digest: str = ""
    sources: tuple[Mapping[str, Any], ...] = ()
    """One per input file: `path`, `digest`, `rows`, and its licence where known."""
    licence: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Counts of each part, filled when the dataset is written."""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "vocab_size": self.vocab_size,
            "contract_digest": self.contract_digest,
            "tokenizer_digest": self.tokenizer_digest,
            "sources": [dict(source) for source in self.sources],
            "licence": self.licence,
            "facts": dict(self.facts),
            "parts": {name: dict(counts) for name, counts in self.parts.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Card:
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        return cls(**{**known, "sources": tuple(known.get("sources", ()))})


def describe_part(
    item_lengths: npt.NDArray[np.int64], *, num_sequences: int, num_supervised: int
) -> dict[str, int | float | dict[str, int]]:
    """Counts of one part and the quantiles of its items' lengths, in tokens."""
    num_tokens = int(item_lengths.sum())
    quantiles = {}
    if len(item_lengths):
        levels = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
        quantiles = {name: int(np.quantile(item_lengths, level, method="nearest")) for name, level in levels.items()}
    return {
        "items": len(item_lengths),
        "sequences": num_sequences,
        "tokens": num_tokens,
        "supervised_tokens": num_supervised,
        "supervised_ratio": round(num_supervised / num_tokens, 6) if num_tokens else 0.0,
        "lengths": quantiles,
    }
