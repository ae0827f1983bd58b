"""The nouns of data: one example in human terms, with where it came from.

A `Sample` is a Conversation, Preference, Feedback, Label or Document. Formats make them, splits group them, templates
render them. All are immutable; `replace` makes a changed copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

Role = Literal["system", "user", "assistant", "tool"]
Kind = Literal["conversation", "preference", "feedback", "label", "document"]
BETWEEN = "\n\n"
"""Stands between the passages of one file in its extracted text, which character ranges count in."""

__all__ = [
    "BETWEEN",
    "Conversation",
    "Document",
    "Feedback",
    "Kind",
    "Label",
    "Message",
    "Origin",
    "Preference",
    "Role",
    "Sample",
    "replace",
]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a sample was read: file as the user named it, 1-based line (row, record), and for documents a page.

    `start` and `end` are the half-open character range in the document's extracted text, which
    `danlu.data.extracted.text_of_document` gives again; `document` is the sha256 of the file's bytes.
    """

    file: str
    line: int
    page: int | None = None
    start: int | None = None
    end: int | None = None
    document: str | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `train` overrides the loss mask for this turn (None: by the method's rule). `reasoning` is a thinking
    trace kept apart from the answer; `tool_calls` are OpenAI-shaped dicts with `arguments` as an object."""

    role: Role
    content: str
    name: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str | None = None
    train: bool | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat, oldest turn first. `tools` are OpenAI-shaped function schemas."""

    messages: tuple[Message, ...]
    origin: Origin
    tools: tuple[dict[str, Any], ...] = ()
    group: str | None = None
    """What must not be split between train and test: a document id, a fact id; None means the text alone decides."""
    tags: dict[str, Any] = field(default_factory=dict, hash=False)
    kind: Literal["conversation"] = "conversation"


@dataclass(frozen=True, slots=True)
class Preference:
    """The same prompt with a better and a worse continuation."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    origin: Origin
    tools: tuple[dict[str, Any], ...] = ()
    group: str | None = None
    tags: dict[str, Any] = field(default_factory=dict, hash=False)
    kind: Literal["preference"] = "preference"


@dataclass(frozen=True, slots=True)
class Feedback:
    """A conversation somebody liked or did not (KTO rows)."""

    messages: tuple[Message, ...]
    desirable: bool
    origin: Origin
    tools: tuple[dict[str, Any], ...] = ()
    group: str | None = None
    tags: dict[str, Any] = field(default_factory=dict, hash=False)
    kind: Literal["feedback"] = "feedback"


@dataclass(frozen=True, slots=True)
class Label:
    """A text and its class. Trained and asked as a conversation: the text, then the label."""

    text: str
    label: str
    origin: Origin
    group: str | None = None
    tags: dict[str, Any] = field(default_factory=dict, hash=False)
    kind: Literal["label"] = "label"


@dataclass(frozen=True, slots=True)
class Document:
    """Plain text for continued pretraining, or a passage of a file."""

    text: str
    origin: Origin
    title: str = ""
    group: str | None = None
    tags: dict[str, Any] = field(default_factory=dict, hash=False)
    kind: Literal["document"] = "document"


Sample: TypeAlias = Conversation | Preference | Feedback | Label | Document
