"""What the gateway takes at most: sizes, numbers and times. Above them a request is refused with the cap's value."""

from __future__ import annotations

from dataclasses import dataclass

from danlu.openai.bodies import BodyCaps


@dataclass(frozen=True, slots=True)
class Caps(BodyCaps):
    """Defaults are for a private API: generous for people, small enough that nobody can hold an engine for an hour.
    Those that a recipe may change (`serving.caps`) have the recipe's own defaults."""

    hosts: tuple[str, ...] = ()
    """Names this server answers to (`Host` without port); empty: any that is well formed."""
    origins: tuple[str, ...] = ()
    """Browser pages that may call it (`https://chat.example.com`); empty: none, who sends an `Origin` is refused."""
    most_body_bytes: int = 4 * 2**20
    most_header_bytes: int = 16 * 2**10
    most_reply_bytes: int = 64 * 2**20
    """Of an engine's answer that is no stream."""
    most_event_bytes: int = 2**20
    """Of one event in a stream."""
    answer_tokens: int = 2048
    """`max_tokens` where the client gives none: an answer has an end."""
    bytes_per_token: float = 2.0
    """For the reservation: UTF-8 bytes of a prompt by this is its tokens at most. Ordinary text has three to five; what
    has fewer is charged when it is settled. 1 is a hard bound for byte-level vocabularies."""
    body_s: float = 30.0
    """Until the whole request is here."""
    first_s: float = 300.0
    """Until the engine's first byte."""
    between_s: float = 60.0
    """Between two pieces of a stream."""
    whole_s: float = 600.0
    num_tries: int = 2
    """Replicas that are asked, as long as the client has seen nothing."""
