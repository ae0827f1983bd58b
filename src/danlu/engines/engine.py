"""The contract of an engine. Torch-free, so that evaluation can stand on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

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
    """What is asked: turns (and tools) that end with the user's. `schema` is a JSON Schema that the answer should fit:
    servers that can will hold the answer to it; nobody promises it."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, object], ...] = ()
    schema: dict[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """text without control tokens; `ids` are the generated tokens (empty from a remote engine). `seconds` is what the
    answer took: of a remote engine the whole wait, of one that answers many at once its share of the time."""

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


@runtime_checkable
class Flowing(Protocol):
    """An engine that gives answers as they are finished, so that who keeps them loses few when it is stopped."""

    def answers(self, questions: Sequence[Question], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """(the question's number, its answer), each once, in any order."""
        ...


def in_order(answers: Iterator[tuple[int, Answer]], watch: Callable[[int], None] | None) -> list[Answer]:
    """What `generate` gives, of what `answers` does."""
    found: dict[int, Answer] = {}
    for number, answer in answers:
        found[number] = answer
        if watch is not None:
            watch(1)
    return [answer for _, answer in sorted(found.items())]


@runtime_checkable
class Classifying(Protocol):
    """An engine whose answers are names of classes."""

    def probabilities(self, question: Question) -> dict[str, float]:
        """Every class with its probability, the likeliest first."""
        ...


@runtime_checkable
class Rendering(Protocol):
    """An engine that knows the tokens a question becomes: another template is another prompt, whatever was asked."""

    def prompt_ids(self, question: Question) -> list[int]:
        """The rendered prompt, generation prompt included."""
        ...
