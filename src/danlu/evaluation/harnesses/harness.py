"""The contract of a harness: a command line that asks one model at a URL, and a reader of what it wrote per item."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson

from danlu.core.errors import EvaluationError
from danlu.core.files import sha256_json
from danlu.data.sample import Message
from danlu.evaluation.clusters import clusters
from danlu.evaluation.items import Item
from danlu.evaluation.stats import compare
from danlu.evaluation.tasks.task import Result, paired


@dataclass(frozen=True, slots=True)
class Order:
    """What a harness is to do. `python` is the interpreter of its own environment, `folder` where it may write.

    `scores`: tasks are to be answered by likelihoods, which needs a server that was seen to give them and `tokenizer`,
    the model's folder.
    """

    python: Path
    url: str
    model: str
    tasks: tuple[str, ...]
    folder: Path
    limit: int | None = None
    num_parallel: int = 8
    scores: bool = False
    tokenizer: Path | None = None
    include: Path | None = None
    max_new_tokens: int = 256
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answered:
    """One item as the harness judged it. `key` is the same for the same item whichever model was asked."""

    task: str
    key: str
    question: str
    reference: str
    answer: str
    value: float
    metric: str
    group: str = ""


class Harness(Protocol):
    """One suite. Stateless."""

    name: str
    program: str
    """What must be installed in its environment, as its package is called."""

    def command(self, order: Order) -> list[str]:
        """Without a shell; everything it writes goes under `order.folder`."""
        ...

    def read(self, folder: Path) -> list[Answered]:
        """What it wrote per item. EvaluationError naming the file that is none of its own."""
        ...


def paired_items(
    base: Sequence[Answered], tuned: Sequence[Answered]
) -> dict[str, tuple[list[Item], list[Result], list[Result]]]:
    """Per task: items that both were asked, in the base's order, and both results. Values of 1/2 and more are right."""
    known = {(row.task, row.key, row.metric): row for row in tuned}
    found: dict[str, tuple[list[Item], list[Result], list[Result]]] = {}
    for row in base:
        other = known.get((row.task, row.key, row.metric))
        if other is None:
            continue
        items, first, second = found.setdefault(row.task, ([], [], []))
        items.append(Item(row.key, (Message("user", row.question),), row.reference, group=row.group))
        first.append(_result(row))
        second.append(_result(other))
    return found


def section_of(items: Sequence[Item], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
    """A task's section of a report. Where the metric has shades (F1, ROUGE) their means are compared, not rights."""
    section = paired(items, base, tuned) | {"metric": base[0].details["metric"]}
    values = [[result.value for result in side] for side in (base, tuned)]
    if any(value not in (0.0, 1.0) for side in values for value in side):
        section["difference"] = compare(values[0], values[1], clusters(items)).to_json()
        for side, mean in zip(("base", "tuned"), (sum(side) / len(side) for side in values), strict=True):
            section[side]["mean"] = mean
    return section


def _result(row: Answered) -> Result:
    value = min(1.0, max(0.0, row.value))
    return Result(row.key, value, value >= 0.5, (row.answer,), {"metric": row.metric})


def key_of(question: str, reference: str) -> str:
    return sha256_json([question, reference])[:16]


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file; a line torn by a crash is passed by."""
    for line in path.read_bytes().splitlines():
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(value, dict):
            yield value


def text_of(value: Any) -> str:
    """An answer as text, however deep it is nested in lists."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, str):
        return value
    return "" if value is None or value in ([], ()) else orjson.dumps(value).decode()


def distinct(rows: Iterable[Answered]) -> list[Answered]:
    """The same item asked again (repeats) becomes one, with the mean of its values."""
    groups: dict[tuple[str, str, str], list[Answered]] = {}
    for row in rows:
        groups.setdefault((row.task, row.key, row.metric), []).append(row)
    found = []
    for rows_of in groups.values():
        first, mean = rows_of[0], sum(row.value for row in rows_of) / len(rows_of)
        found.append(Answered(first.task, first.key, first.question, first.reference, first.answer, mean, first.metric,
                              first.group))  # fmt: skip
    return found


def nothing_read(harness: str, folder: Path) -> EvaluationError:
    return EvaluationError("harness.nothing_read", where=str(folder), given=harness)
