"""What of drawing a token not every engine can do, so that it is no part of `engine.Sampling`. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from danlu.engines.grammars import Grammar


@dataclass(frozen=True, slots=True)
class SamplingExtras:
    """The penalties are OpenAI's (on the answer's tokens) and Keskar et al.'s (2019, arXiv:1909.05858; on prompt and
    answer); `min_p` leaves what is at least this share as likely as the likeliest (Nguyen et al. 2024,
    arXiv:2407.01082). `num_likeliest` None: no log-probabilities; else the chosen token's and so many of the
    likeliest. `grammar` is what the answer is held to; the penalties come after it."""

    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    min_p: float = 0.0
    num_likeliest: int | None = None
    grammar: Grammar | None = None

    @property
    def is_plain(self) -> bool:
        """Whether each token's chance is the model's own, among those that may come."""
        return self.presence == self.frequency == self.min_p == 0 and self.repetition == 1


PLAIN = SamplingExtras()


@dataclass(frozen=True, slots=True)
class TokenLogProb:
    """Natural log-probabilities at one token's place: its own, and the likeliest (id, log p) of all."""

    log_prob: float
    likeliest: tuple[tuple[int, float], ...]
