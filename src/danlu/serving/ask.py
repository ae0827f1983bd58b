"""One understood request: what a client asked for, after the allow-list and the caps, before any engine is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from danlu.openai.bodies import Kind


@dataclass(slots=True)
class Ask:
    """`body` holds allowed fields only and is what the engine gets, but for `model`, which the lease writes."""

    id: str
    """Of this answer, made here: `chatcmpl-…`; clients give feedback by it."""
    kind: Kind
    model: str
    """As the client named it: an alias or an immutable lens."""
    body: dict[str, Any]
    is_stream: bool
    wants_usage: bool
    """Whether the client itself asked for usage at a stream's end: if not, its chunk is kept from it."""
    num_prompt_tokens: int
    """Estimated from above, for the reservation; the engine's own count settles it."""
    most_tokens: int
    """Of the answer, after the cap, all choices together."""
    ignored: tuple[str, ...] = ()
    """Fields that were sent and have no effect here; the client is told."""

    @property
    def reserve_tokens(self) -> int:
        return self.num_prompt_tokens + self.most_tokens
