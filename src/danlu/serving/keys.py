"""Keys: a client's credential, kept as a peppered hash, with what it may use and how much.

A key reads `dl-<id>-<secret>`: the id is looked up, the secret's hash compared in constant time. The secret is shown
once, when it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Key:
    """0 of a limit means: none. Times are seconds since 1970."""

    id: str
    name: str
    models: tuple[str, ...]
    """Model names (aliases, or immutable lenses) it may ask; `("*",)` is every one."""
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrency: int = 0
    tokens_per_month: int = 0
    expires: float = 0.0
    created: float = 0.0
    revoked: float = 0.0
    keeps_bodies: bool = False
    """Whether its questions and answers are kept, masked, in the audit (off by default)."""

    def may_use(self, model: str) -> bool:
        return "*" in self.models or model in self.models


class KeyStore(Protocol):
    """Where keys lie. `find` is asked on every request and must not wait for a disk: it answers from memory that is
    renewed when the store changed; a revoked key is refused within a second everywhere."""

    def find(self, credential: str, now: float) -> Key | None:
        """The key, if the credential is right and the key is neither revoked nor past its time."""
        ...
