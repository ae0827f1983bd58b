"""What one child is asked to do. No torch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from race.shapes import Shape, find_shape
from race.tokens import TokenFile, read

RANK, ALPHA, RATE = 16, 32.0, 1e-4


@dataclass(frozen=True)
class Setting:
    """How one system runs one case. `base` is the frozen weights' format; `checkpointing` and `layout` are the peers'
    choices (danlu makes its own); `micro_tokens` None is the whole step at once."""

    name: str
    micro_tokens: int | None = None
    checkpointing: str = "off"
    layout: str = "rows"
    base: str = "bf16"
    attention: str = "sdpa"
    extras: dict[str, Any] = field(default_factory=dict)

    def scaled(self, factor: float) -> Setting:
        """For a rehearsal with fewer tokens a step."""
        if factor == 1 or self.micro_tokens is None:
            return self
        return dataclasses.replace(self, micro_tokens=round(self.micro_tokens * factor))


@dataclass(frozen=True)
class Job:
    system: str
    case: str
    setting: Setting
    token_file: str
    shape_name: str
    num_layers: int | None
    device: str
    step_tokens: int
    memory_gib: float | None
    num_warm: int
    num_steps: int
    folder: str
    num_profiled: int = 0
    num_threads: int | None = None
    spawned: float = 0.0

    @property
    def shape(self) -> Shape:
        return find_shape(self.shape_name, self.num_layers)

    @property
    def total_steps(self) -> int:
        return self.num_warm + self.num_steps + self.num_profiled

    @property
    def shared(self) -> Path:
        """Where children of all races keep what is dear to make again."""
        return Path(self.folder).parents[1]

    def tokens(self) -> TokenFile:
        return read(Path(self.token_file))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        tree = json.loads(text)
        return cls(**{**tree, "setting": Setting(**tree["setting"])})
