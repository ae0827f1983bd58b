"""Row: one question being answered, and Forward: what computes rows. Knows tokens and stops; what a token means is the
engine's.

Shapes: R rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from danlu.core.errors import EngineError
from danlu.engines.detokenizer import Detokenizer
from danlu.engines.engine import Sampling
from danlu.engines.grammars import Hold
from danlu.engines.lenses import Lens
from danlu.engines.sampling_extras import PLAIN, SamplingExtras, TokenLogProb

GREEDY = Sampling()


@dataclass(slots=True, eq=False)
class Row:
    """One question being answered. `lens` is the adapter it is answered with; None: what the forward itself holds."""

    number: int
    prompt: list[int]
    num_free: int
    """Tokens that the context, and the sampling, still allow."""
    sampling: Sampling = GREEDY
    extras: SamplingExtras = PLAIN
    lens: Lens | None = None
    draws: npt.NDArray[np.float64] | None = None
    detokenizer: Detokenizer | None = None
    is_mean: bool = False
    """Its prompt is read for the mean of its hidden states, and nothing is written."""
    sum_D: Tensor | None = None  # noqa: N815 - a shape
    """Of such a prompt: its hidden states after the final norm, added up so far, fp32."""
    ids: list[int] = field(default_factory=list)
    log_probs: list[TokenLogProb] = field(default_factory=list)
    """One for each id, where the extras ask for them."""
    num_done: int = 0
    """Tokens of the prompt that are computed."""
    finish: Literal["stop", "length", "error"] | None = None
    fault: EngineError | None = None
    seconds: float = 0.0
    """This row's share of the time."""
    hold: Hold | None = field(init=False)
    """What the extras' grammar allows next."""

    def __post_init__(self) -> None:
        self.hold = self.extras.grammar.begin() if self.extras.grammar is not None else None

    @property
    def most_tokens(self) -> int:
        return len(self.prompt) + self.num_free

    def take(self, token: int, stop_ids: frozenset[int]) -> None:
        """Add a token to the answer."""
        self.ids.append(token)
        is_end = token in stop_ids
        if self.hold is not None and not is_end:
            try:
                self.hold.take(token)
            except EngineError as fault:
                self.fault, self.finish = fault, "error"
                return
            is_end = self.hold.is_over
        if self.detokenizer is not None and self.detokenizer.feed(self.ids):
            is_end = True
        if is_end:
            self.finish = "stop"
        elif len(self.ids) >= self.num_free:
            self.finish = "length"
        if self.finish is not None and self.detokenizer is not None:
            self.detokenizer.feed(self.ids, is_last=True)


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens [start, end) of a row's prompt, to be computed now."""

    row: Row
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def is_last(self) -> bool:
        return self.end == len(self.row.prompt)


class Forward(Protocol):
    """What computes, and keeps the keys and values of, rows."""

    @property
    def splits(self) -> bool:
        """Whether a prompt may come in several spans."""
        ...

    def begin(self, rows: Sequence[Row]) -> None:
        """These prompts come next. Sets `num_done` of those whose beginning is computed already."""
        ...

    def run(self, spans: Sequence[Span]) -> tuple[list[Row], Tensor]:
        """One more token for every row in a seat, and these spans. Rows whose next token is due, with their
        hidden_RD; a row whose prompt is complete has a seat from then on. Adds to `sum_D` of rows that want a mean."""
        ...

    def leave(self, rows: Sequence[Row]) -> None:
        """These rows are done, or given up, wherever they are."""
        ...

    def logits(self, hidden_ND: Tensor) -> Tensor: ...


@runtime_checkable
class Chooser(Protocol):
    """A `Forward` that chooses tokens itself where every row takes its likeliest."""

    def known(self, rows: Sequence[Row]) -> list[int] | None:
        """The tokens of these rows, of the last `run`'s, -1 where logits were no numbers; None: choose from logits."""
        ...
