"""Items: questions with their references, made from a user's rows or from Samples. What is asked, not how it is judged.

A row is a dict `{"question", "answer"}` and, if wanted, `value` (what a right answer must contain; a list: all of it),
`accept` (other right values), `group` (fact; errors of one group are not independent), `document`, `language`, `kind`
(sarcasm, negation, unanswerable, ...; `sarcasm_control` is its ordinary twin), `pair` (ties twins together), `match`
(the metric that judges: contains, prefix, exact, ...), `category` (a part of its suite that is counted apart), `rules`
(what its metric is told: a tolerance, a schema, the form to keep, see `metrics/numeric.py` and `metrics/format.py`),
`forbid` (what no answer may give away), `system`, `id`. Rows of one group with the same key are wordings of one
question.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from danlu.core.errors import EvaluationError
from danlu.core.files import sha256_json
from danlu.core.messages import listed
from danlu.data.sample import Conversation, Document, Feedback, Label, Message, Preference, Sample
from danlu.engines.engine import Question
from danlu.evaluation.fold import is_chinese

_QUESTION_KEYS = ("question", "instruction", "prompt", "query", "问题")
_CONTROL = "_control"
_ANSWER_KEYS = ("answer", "reference", "output", "completion", "response", "答案", "回答")


@dataclass(frozen=True, slots=True)
class Item:
    """One question and what a right answer is. `group` is the cluster of the statistics (default: the item alone)."""

    id: str
    messages: tuple[Message, ...]
    reference: str
    values: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    kind: str = ""
    control: bool = False
    pair: str = ""
    group: str = ""
    language: str = ""
    document: str = ""
    metric: str = ""
    tools: tuple[dict[str, Any], ...] = ()
    category: str = ""
    rules: dict[str, Any] = field(default_factory=dict, hash=False)
    forbid: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The last thing the user said."""
        return next((turn.content for turn in reversed(self.messages) if turn.role == "user"), "")

    @property
    def question(self) -> Question:
        return Question(self.messages, self.tools)

    @property
    def cluster(self) -> str:
        return self.group or self.pair or self.document or self.id


@dataclass(frozen=True, slots=True)
class Questions:
    """Items, and how many rows could not be asked, by sort (`document`, `feedback`, `no_answer`)."""

    items: tuple[Item, ...]
    skipped: Counter[str] = field(default_factory=Counter)


def load_questions(
    rows: Iterable[Sample | Mapping[str, Any]],
    *,
    name: str = "questions",
    ask_label: Callable[[Label], Conversation] | None = None,
) -> Questions:
    """Rows (dicts) and Samples, mixed as they come. A row without a question or an answer raises with its number.

    `ask_label` words a Label's question as training did (`Encoder.conversation`); without it the text alone is asked.
    """
    items: list[Item] = []
    skipped: Counter[str] = Counter()
    for number, row in enumerate(rows, start=1):
        item = _from_row(row, f"{name}:{number}") if isinstance(row, Mapping) else _from_sample(row, ask_label)
        if isinstance(item, Item):
            items.append(item)
        else:
            skipped[item] += 1
    return Questions(_distinct(_with_labels(items)), skipped)


def judged_by(items: Sequence[Item], metric: str | None) -> tuple[Item, ...]:
    """The items that name no metric get this one; labels, and questions without an answer, keep their own judges."""
    free = [not item.metric and not item.labels and (item.kind != "unanswerable" or item.control) for item in items]
    return tuple(
        replace(item, metric=metric) if metric and is_free else item for item, is_free in zip(items, free, strict=True)
    )


def choose_items(items: Sequence[Item], max_items: int | None, *, seed: int = 0) -> tuple[Item, ...]:
    """At most `max_items`, drawn by seed, in their first order; groups are spread before one is asked twice."""
    if max_items is None or len(items) <= max_items:
        return tuple(items)
    turn: Counter[str] = Counter()
    order: list[tuple[int, int]] = []
    for index in np.random.default_rng(seed).permutation(len(items)).tolist():
        order.append((turn[items[index].cluster], index))
        turn[items[index].cluster] += 1
    chosen = [index for _, index in sorted(order, key=lambda entry: entry[0])[:max_items]]
    return tuple(items[index] for index in sorted(chosen))


def choose_whole(items: Sequence[Item], max_items: int | None, *, seed: int = 0) -> tuple[Item, ...]:
    """At most `max_items`, whole clusters only (a pair without its twin tells nothing), drawn by seed."""
    if max_items is None or len(items) <= max_items:
        return tuple(items)
    clusters: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        clusters.setdefault(item.cluster, []).append(index)
    chosen: set[int] = set()
    names = list(clusters)
    for place in np.random.default_rng(seed).permutation(len(names)).tolist():
        if len(chosen) + len(clusters[names[place]]) <= max_items:
            chosen.update(clusters[names[place]])
    return tuple(items[index] for index in sorted(chosen))


def _from_row(row: Mapping[str, Any], where: str) -> Item:
    question = _first(row, _QUESTION_KEYS)
    answer = _first(row, _ANSWER_KEYS)
    values = _texts(row.get("value"))
    if not question:
        raise EvaluationError("evaluation.no_question", where=where, given=listed(map(str, row)) or "-")
    has_key = answer or values or row.get("rules") or row.get("forbid") or row.get("kind") == "unanswerable"
    if not has_key:
        raise EvaluationError("evaluation.no_answer", where=where, given=question[:80])
    system = (Message("system", str(row["system"])),) if row.get("system") else ()
    return _tagged((*system, Message("user", question)), answer or "；".join(values), row)


def _from_sample(sample: Sample, ask_label: Callable[[Label], Conversation] | None) -> Item | str:
    match sample:
        case Label():
            asked = ask_label(sample).messages[:-1] if ask_label else (Message("user", sample.text),)
            item = _tagged(asked, sample.label, sample.tags, group=sample.group)
            return replace(item, metric=item.metric or "label")
        case Conversation():
            last = max((i for i, turn in enumerate(sample.messages) if turn.role == "assistant"), default=0)
            if last == 0 or not sample.messages[last].content.strip():
                return "no_answer"
            item = _tagged(
                sample.messages[:last], sample.messages[last].content.strip(), sample.tags, group=sample.group
            )
            return replace(item, tools=sample.tools)
        case Preference() | Feedback() | Document():
            return sample.kind


def _tagged(
    messages: tuple[Message, ...], reference: str, tags: Mapping[str, Any], *, group: str | None = None
) -> Item:
    kind = str(tags.get("kind") or "")
    control = kind.endswith(_CONTROL) or str(tags.get("control", "")).strip().lower() in ("true", "yes", "1")
    question = messages[-1].content
    return Item(
        id=str(tags.get("id") or sha256_json([[turn.role, turn.content] for turn in messages] + [reference])[:12]),
        messages=messages,
        reference=reference,
        values=_texts(tags.get("value")),
        accept=_texts(tags.get("accept")),
        labels=_texts(tags.get("labels")),
        kind=kind.removesuffix(_CONTROL),
        control=control,
        pair=str(tags.get("pair") or ""),
        group=str(tags.get("group") or tags.get("fact") or group or ""),
        language=str(tags.get("language") or ("zh" if is_chinese(question) else "en")),
        document=str(tags.get("document") or ""),
        metric=_metric(tags, kind),
        category=str(tags.get("category") or ""),
        rules=_rules(tags.get("rules"), question),
        forbid=_texts(tags.get("forbid")),
    )


def _metric(tags: Mapping[str, Any], kind: str) -> str:
    """`match: contains` is the habit, not a wish: a question without an answer is still judged as a refusal."""
    named = str(tags.get("metric") or tags.get("match") or "")
    return "" if named == "contains" and kind == "unanswerable" else named


def _rules(given: Any, question: str) -> dict[str, Any]:
    """An object, or its JSON as text (a table's cell holds no objects); other text is somebody else's column."""
    if isinstance(given, dict):
        return given
    if not isinstance(given, str) or not given.lstrip().startswith("{"):
        return {}
    try:
        return dict(json.loads(given))
    except ValueError as error:
        raise EvaluationError("evaluation.bad_rules", where=question[:80], given=given[:80]) from error


def _with_labels(items: list[Item]) -> list[Item]:
    """Every class that occurs is a class an answer may name."""
    known = tuple(sorted({item.reference for item in items if item.metric == "label"}))
    return [replace(item, labels=known) if item.metric == "label" and not item.labels else item for item in items]


def _distinct(items: list[Item]) -> tuple[Item, ...]:
    """The same id twice becomes id-2: results are told apart by id."""
    seen: Counter[str] = Counter()
    distinct = []
    for item in items:
        seen[item.id] += 1
        distinct.append(item if seen[item.id] == 1 else replace(item, id=f"{item.id}-{seen[item.id]}"))
    return tuple(distinct)


def _first(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    return next((str(row[key]).strip() for key in keys if row.get(key) not in (None, "")), "")


def _texts(value: Any) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    return tuple(str(part) for part in value) if isinstance(value, list | tuple) else (str(value),)
