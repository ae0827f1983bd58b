"""What became of one request, filled in on its way through the gateway and told to the meters once, at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from danlu.serving.journal import Outcome


@dataclass(slots=True)
class Tally:
    """Times are seconds from the request's first byte here. "" and 0 where a request did not come so far."""

    id: str
    path: str
    """As the gateway knows it; "" where it knows no such path, so that strangers cannot make names for meters."""
    kind: str = ""
    key: str = ""
    """The key's id, never its secret."""
    model: str = ""
    lens: str = ""
    replica: str = ""
    status: int = 0
    code: str = ""
    """Of the error, as the client was told: `rate_limit_exceeded`."""
    outcome: Outcome = "refused"
    is_stream: bool = False
    is_counted: bool = False
    """Whether the engine itself gave the token counts."""
    is_unstopped: bool = False
    """An engine that can be told to stop did not say in time what it had computed."""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    num_events: int = 0
    num_tries: int = 0
    before_s: float = 0.0
    """Until an engine was asked."""
    first_s: float = 0.0
    """Until the first byte of an answer."""
    whole_s: float = 0.0


class Meters(Protocol):
    """Each request that is counted begins once and ends once."""

    def began(self) -> None: ...

    def ended(self, tally: Tally) -> None: ...
