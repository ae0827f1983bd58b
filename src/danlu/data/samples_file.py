"""Samples on disk as danlu keeps them for itself: one JSON object a line, nothing lost. For other tools: `formats/`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from danlu.core.files import writing
from danlu.data.sample import Conversation, Document, Feedback, Label, Message, Origin, Preference, Sample

KINDS: dict[str, type[Any]] = {
    "conversation": Conversation,
    "preference": Preference,
    "feedback": Feedback,
    "label": Label,
    "document": Document,
}
MESSAGE_FIELDS = ("messages", "prompt", "chosen", "rejected")


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """All samples, whole or not at all."""
    with writing(path) as file:
        file.writelines(orjson.dumps(as_json(sample)) + b"\n" for sample in samples)


def read_samples(path: Path) -> list[Sample]:
    """What `write_samples` wrote."""
    with path.open("rb") as file:
        return [sample_of(orjson.loads(line)) for line in file]


def as_json(sample: Sample) -> dict[str, Any]:
    """The whole sample, for `sample_of`."""
    return asdict(sample)


def sample_of(row: dict[str, Any]) -> Sample:
    """What `as_json` gave."""
    row = dict(row)
    kind = KINDS[row["kind"]]
    row["origin"] = Origin(**row["origin"])
    for name in MESSAGE_FIELDS:
        if name in row:
            row[name] = tuple(Message(**turn | {"tool_calls": tuple(turn["tool_calls"])}) for turn in row[name])
    if "tools" in row:
        row["tools"] = tuple(row["tools"])
    sample: Sample = kind(**row)
    return sample
