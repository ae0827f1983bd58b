"""What a person asks of a weighing: which documents and questions, how much is shown, what things cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from danlu.engines.cost import Price
from danlu.engines.remote import Endpoint

PAGE = "weigh.html"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is weighed and how. Sizes are in tokens; money is per million tokens, or per hour of this machine."""

    documents: tuple[Path, ...] = ()
    questions: Path | None = None
    num_passages: int = 4
    passage_tokens: int = 200
    num_examples: int = 4
    instructions: str = ""
    max_items: int | None = None
    num_timed: int = 20
    price: Price | None = None
    price_per_h: float | None = None
    embedder: Endpoint | None = None
    reranker: Endpoint | None = None
