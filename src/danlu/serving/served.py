"""A model as it stands: what answers for it, what answered before, and how that outlives the server process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.core.errors import EngineError
from danlu.core.files import read_json, write_json

KEPT = "rollout.json"
WAYS_BACK = 16
Weights = tuple[tuple[str, float], ...]
"""Lens and its share of one, each."""
TOLERANCE = 1e-6


@dataclass(slots=True)
class Served:
    """A model, and the ways back."""

    name: str
    target: str
    """As it was offered: a folder, `law:3`, or `law@prod`."""
    origin: str
    """Digest that `target` meant when it was last looked up: by it a start knows whether changes by hand still hold."""
    offered: str
    """The lens that it meant."""
    lenses: Weights
    created: int
    before: list[Weights] = field(default_factory=list)
    problem: str = ""
    """Of the last change that failed; empty after one that did not."""

    @property
    def follows(self) -> str:
        """The registry's name that is followed; folders and URLs may hold an @ as well."""
        return self.target if "@" in self.target and "/" not in self.target else ""

    @property
    def all_lenses(self) -> set[str]:
        return {name for way in (self.lenses, *self.before) for name, _ in way}

    def turn_to(self, lenses: Weights) -> None:
        """What answered until now is the first way back."""
        if lenses != self.lenses:
            self.before = [*self.before, self.lenses][-WAYS_BACK:]
            self.lenses = lenses

    def restore(self, kept: Mapping[str, Any]) -> None:
        self.lenses = _weights(kept["lenses"])
        self.before = [_weights(way) for way in kept["before"]]
        self.problem = str(kept["problem"])


@dataclass(slots=True)
class Use:
    """How much a lens has been asked."""

    num_leased: int = 0
    last: float = 0.0


def keep(home: Path, models: Iterable[Served], places: Mapping[str, str]) -> None:
    """For the next start: what answers, and where each version lies."""
    value = {
        served.name: {
            "target": served.target, "origin": served.origin, "lenses": served.lenses, "before": served.before,
            "problem": served.problem,
            "places": {name: place for name, place in places.items() if name in served.all_lenses},
        }
        for served in models
    }  # fmt: skip
    write_json(home / KEPT, value)


def read_kept(home: Path) -> dict[str, Any]:
    path = home / KEPT
    return dict(read_json(path)) if path.is_file() else {}


def check_shares(model: str, shares: Mapping[str, float]) -> None:
    is_whole = abs(sum(shares.values()) - 1.0) <= TOLERANCE
    if not shares or not is_whole or any(not 0.0 < share <= 1.0 for share in shares.values()):
        given = ", ".join(f"{name}={share:g}" for name, share in shares.items()) or "-"
        raise EngineError("rollout.shares", where=model, given=given)


def _weights(value: Sequence[Sequence[Any]]) -> Weights:
    return tuple((str(name), float(share)) for name, share in value)
