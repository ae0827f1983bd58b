"""The contract of an engine. Torch-free, so that evaluation can stand on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from danlu.data.sample import Message
from danlu.data.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw an answer. temperature 0 is greedy. `seed` makes a drawn answer repeatable."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: turns (and tools) that end with the user's."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """text without control tokens; `ids` are the generated tokens (empty from a remote engine)."""

    text: str
    finish: Literal["stop", "length", "error"]
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    ids: tuple[int, ...] = ()
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """Log-probabilities (natural) of a sample's supervised tokens, in order."""

    log_probs: tuple[float, ...] = field(default=())

    @property
    def total(self) -> float:
        return sum(self.log_probs)


class Engine(Protocol):
    """Answers questions and scores tokens. `name` is shown in reports; `digest` identifies the weights."""

    name: str

    @property
    def digest(self) -> str: ...

    def generate(
        self, questions: Sequence[Question], sampling: Sampling, *, watch: Callable[[int], None] | None = None
    ) -> list[Answer]:
        """One answer per question, in order; `watch(n)` is told of each n finished."""
        ...

    def stream(self, question: Question, sampling: Sampling) -> Iterator[str]:
        """The answer's text in pieces; joined they equal `generate`'s."""
        ...

    def score(self, samples: Sequence[Tokens]) -> list[Score]:
        """How likely the supervised tokens are."""
        ...
