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


class _OpenMessage:
    """Message before it is closed: of the same slots, but they can be set. A frozen class sets its own one by one
    through `object.__setattr__`, which is a third of what reading a row costs."""

    __slots__ = Message.__slots__


class _OpenConversation:
    __slots__ = Conversation.__slots__


class _OpenOrigin:
    __slots__ = Origin.__slots__


_new = object.__new__


def plain_message(role: Role, content: str) -> Message:
    """`Message(role, content)`, made quickly."""
    made: Any = _new(_OpenMessage)
    made.role, made.content = role, content
    made.name = made.reasoning = made.tool_call_id = made.train = None
    made.tool_calls = ()
    made.__class__ = Message
    return made  # type: ignore[no-any-return]


def plain_conversation(
    messages: tuple[Message, ...], origin: Origin, group: str | None, tags: dict[str, Any]
) -> Conversation:
    """`Conversation(messages, origin, (), group, tags)`, made quickly."""
    made: Any = _new(_OpenConversation)
    made.messages, made.origin, made.tools, made.group, made.tags = messages, origin, (), group, tags
    made.kind = "conversation"
    made.__class__ = Conversation
    return made  # type: ignore[no-any-return]


def line_origin(file: str, line: int) -> Origin:
    """`Origin(file, line)`, made quickly."""
    made: Any = _new(_OpenOrigin)
    made.file, made.line = file, line
    made.page = made.start = made.end = made.document = None
    made.__class__ = Origin
    return made  # type: ignore[no-any-return]
