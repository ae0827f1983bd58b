"""A quality score by rules for one row: 1 where nothing is amiss, multiplied down by each rule that objects.

The rules are the cleaners' own, whatever the recipe has them do, and two that clean nothing: answers of hardly a
letter, and left-over markup. After the heuristics of Gopher (Rae et al. 2021, appendix A) and C4. A score tells where
to look; it does not drop a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from danlu.data.cleaners import CLEANERS, Batch
from danlu.data.sample import Conversation, Document, Label, Message, Origin, Sample

_MARKUP = re.compile(r"[\x00-\x08]|&(?:nbsp|lt|gt|amp|quot);|<(?:br|p|div|span|td|tr|li)\b[^>]*>")
_WEIGHTS = {"short": 0.6, "repeats": 0.5, "copied": 0.6, "broken": 0.4, "symbols": 0.4, "refusal": 0.4, "open_end": 0.3}
"""What the score loses by each rule; the names are keys `rule_<name>` of the room `report_data`."""
_CLEANERS = {"repeats": "repetition", "copied": "echo", "symbols": "symbols", "refusal": "refusals",
             "open_end": "truncated"}  # fmt: skip
_NOWHERE = Origin("", 0)


class Read(NamedTuple):
    """A row as the report holds it. `is_cut`: the answer goes on, so how it ends here says nothing."""

    kind: str
    prompt: str
    answer: str
    is_cut: bool = False


def judge(rows: Sequence[Read]) -> list[tuple[float, tuple[str, ...]]]:
    """Of each row the score in (0, 1] and the names of the rules that object to it."""
    batch = Batch([_sample(row) for row in rows])
    objecting = {name: CLEANERS.load(cleaner)().judge(batch) for name, cleaner in _CLEANERS.items()}
    judged = []
    for at, row in enumerate(rows):
        broken = [name for name in _WEIGHTS if (at in objecting[name] if name in objecting else _objects(name, row))]
        broken = [name for name in broken if not (name == "open_end" and row.is_cut)]
        score = 1.0
        for name in broken:
            score *= 1 - _WEIGHTS[name]
        judged.append((round(score, 4), tuple(broken)))
    return judged


def _objects(name: str, row: Read) -> bool:
    if name == "short":
        return row.kind != "label" and len(row.answer.strip()) < (20 if row.kind == "document" else 2)
    return _MARKUP.search(row.prompt if row.kind == "label" else f"{row.prompt}\n{row.answer}") is not None


def _sample(row: Read) -> Sample:
    if row.kind == "document":
        return Document(row.answer, _NOWHERE)
    if row.kind == "label":
        return Label(row.prompt, row.answer, _NOWHERE)
    return Conversation((Message("user", row.prompt), Message("assistant", row.answer)), _NOWHERE)
