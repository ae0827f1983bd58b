"""SuperAnnotate: items of a multimodal form out and in (JSONL), and annotations of text projects in.

Shapes as its Python SDK uploads and downloads them. A form item is `{"metadata": {"name", ...}, "data": {component:
{"value": ...}}}`; the components here are `text`, `label` or `answer`, `suggestion`, `origin`, `turns`. A text project
keeps texts in files of its own: there an item has `metadata` and `instances` or `tags`, and the text is looked up among
the tasks that were sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from danlu.core.errors import DataError
from danlu.data.labelling.task import Judgement, Suggestion, Task, turns_of
from danlu.data.ledger import Ledger

TOOL = "superannotate"
CHOICE, ANSWER, TEXT = "label", "answer", "text"
_UNDONE = {"notstarted", "inprogress", "returned"}
_SKIPPED = {"skipped"}


def write_items(tasks: Iterable[Task], *, folder: str = "") -> list[dict[str, Any]]:
    """Items of a multimodal project; one JSON object a line makes the file that it uploads."""
    return [_item(task, folder) for task in tasks]


def read_tasks(items: Sequence[Mapping[str, Any]]) -> list[Task]:
    """The tasks that `write_items` wrote."""
    tasks = []
    for item in items:
        values = _values(item)
        said = values.get("suggestion")
        suggestion = Suggestion(said["value"], said["score"], said["model"]) if isinstance(said, Mapping) else None
        tasks.append(
            Task(str(item["metadata"]["name"]), str(values[TEXT]), tuple(values.get("choices") or ()), turns_of(values),
                 str(values.get("origin") or ""), values.get("group"), suggestion, values.get("why") or {})
        )  # fmt: skip
    return tasks


def parse(content: bytes, file: str) -> list[Mapping[str, Any]]:
    """Items of a file: JSONL, a JSON list, or one item. DataError where it is neither."""
    try:
        value = orjson.loads(content)
        items = value if isinstance(value, list) else [value]
    except orjson.JSONDecodeError:
        try:
            items = [orjson.loads(line) for line in content.splitlines() if line.strip()]
        except orjson.JSONDecodeError as error:
            raise DataError("select.not_an_export", where=file, tool="SuperAnnotate") from error
    if not items or not all(isinstance(item, Mapping) and isinstance(item.get("metadata"), Mapping) for item in items):
        raise DataError("select.not_an_export", where=file, tool="SuperAnnotate")
    return items


def read_export(
    items: Sequence[Mapping[str, Any]], ledger: Ledger, file: str, *, sent: Mapping[str, Task] | None = None
) -> list[Judgement]:
    """Judgements of form items or of text annotations. `sent`: the tasks by id, where texts are not in the export.
    Items that nobody has finished are no rows; skipped and unreadable ones end in the ledger."""
    judgements = []
    for place, item in enumerate(items, start=1):
        status = str(item["metadata"].get("status") or "").replace(" ", "").lower()
        if status in _UNDONE:
            continue
        if status in _SKIPPED:
            ledger.reject(file, place, "label_skipped")
            continue
        found = _judged(item, (sent or {}).get(_name(item)))
        if isinstance(found, str):
            ledger.reject(file, place, found)
        else:
            ledger.use()
            judgements.append(found)
    return judgements


def _item(task: Task, folder: str) -> dict[str, Any]:
    values: dict[str, Any] = {TEXT: task.text}
    values[CHOICE if task.choices else ANSWER] = [] if task.choices else ""
    if task.choices:
        values["choices"] = list(task.choices)
    if task.turns:
        values["turns"] = [{"role": role, "content": content} for role, content in task.turns]
    if task.origin:
        values["origin"] = task.origin
    if task.group is not None:
        values["group"] = task.group
    if task.suggestion is not None:
        one = task.suggestion
        values["suggestion"] = {"value": one.value, "score": one.score, "model": one.model}
    if task.why:
        values["why"] = dict(task.why)
    metadata: dict[str, Any] = {"name": task.id, "status": "NotStarted"}
    if folder:
        metadata["folder_name"] = folder
    return {"metadata": metadata, "data": {name: {"value": value} for name, value in values.items()}}


def _judged(item: Mapping[str, Any], task: Task | None) -> Judgement | str:
    values = _values(item)
    text = values.get(TEXT, task.text if task else None)
    if not isinstance(text, str):
        return "label_no_text"
    written = values.get(ANSWER)
    labels = _labels(item, values)
    if len(labels) > 1:
        return "label_several"
    value = labels[0] if labels else written if isinstance(written, str) else ""
    if not value.strip():
        return "label_empty"
    metadata = item["metadata"]
    last = metadata.get("lastAction")
    who = metadata.get("annotatorEmail") or (last.get("email") if isinstance(last, Mapping) else "") or ""
    choices = tuple(map(str, values.get("choices") or (task.choices if task else ()))) or (value,)
    group = values.get("group", task.group if task else None)
    return Judgement(
        _name(item), value, text, turns_of(values) or (task.turns if task else ()), str(who),
        str(metadata.get("updatedAt") or metadata.get("updated_at") or ""),
        str(group) if group is not None else None, choices if labels else (),
    )  # fmt: skip


def _labels(item: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """The label of a form, else the tags and tag instances of a text annotation (each class once)."""
    told = values.get(CHOICE)
    if told is not None:
        return [str(label) for label in (told if isinstance(told, list) else [told]) if str(label)]
    instances = item.get("instances") or ()
    named = [
        one.get("className") for one in instances if isinstance(one, Mapping) and one.get("type") != "relationship"
    ]
    tags = [tag if isinstance(tag, str) else None for tag in item.get("tags") or ()]
    return list(dict.fromkeys(str(name) for name in (*named, *tags) if name))


def _values(item: Mapping[str, Any]) -> dict[str, Any]:
    """Component to value; a component may stand bare, as older exports wrote it."""
    data = item.get("data")
    if not isinstance(data, Mapping):
        return {}
    return {
        str(name): component.get("value") if isinstance(component, Mapping) and "value" in component else component
        for name, component in data.items()
    }


def _name(item: Mapping[str, Any]) -> str:
    return str(item["metadata"].get("name") or "").removesuffix(".txt")
