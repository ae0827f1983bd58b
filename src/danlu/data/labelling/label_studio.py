"""Label Studio: tasks with predictions out; its JSON and JSON_MIN exports back in.

Formats as Label Studio documents them (guide "Label Studio task format", versions 1.x; of version 0.x the key
`completions`). A result names its control (`from_name`), what it speaks of (`to_name`), its type and value; the
labelling config must use the same names, so it is written beside the tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from danlu.core.errors import DataError
from danlu.data.labelling.task import Judgement, Suggestion, Task, turns_of
from danlu.data.ledger import Ledger

TOOL = "label-studio"
CHOICE, ANSWER, TEXT = "label", "answer", "text"
"""Names of the two controls and of what they speak of, in config, predictions and results."""
_MODEL = "danlu"


def write_tasks(tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """Tasks as `Import` takes them: `data`, and the model's thought under `predictions`."""
    return [_task(task) for task in tasks]


def config(choices: Sequence[str]) -> str:
    """The labelling interface as XML: choices where there are some, else a text to write."""
    lines = ["<View>", f'  <Text name="{TEXT}" value="${TEXT}"/>']
    if choices:
        lines.append(f'  <Choices name="{CHOICE}" toName="{TEXT}" choice="single" showInLine="true">')
        lines += [f"    <Choice value={quoteattr(choice)}/>" for choice in choices]
        lines.append("  </Choices>")
    else:
        lines.append(f'  <TextArea name="{ANSWER}" toName="{TEXT}" rows="6" maxSubmissions="1" editable="true"/>')
    return "\n".join([*lines, "</View>", ""])


def read_export(value: Any, ledger: Ledger, file: str) -> list[Judgement]:
    """Judgements of an export (JSON, JSON_MIN, or one task). Skipped and unreadable ones end in the ledger; a task that
    nobody has labelled yet is no row. DataError when this is no Label Studio export at all."""
    tasks = [value] if isinstance(value, Mapping) else value
    if not isinstance(tasks, list) or not all(isinstance(task, Mapping) for task in tasks):
        raise DataError("select.not_an_export", where=file, tool="Label Studio")
    if tasks and not any("data" in task or "annotation_id" in task or "annotator" in task for task in tasks):
        raise DataError("select.not_an_export", where=file, tool="Label Studio")
    judgements: list[Judgement] = []
    for place, task in enumerate(tasks, start=1):
        read = _from_full if isinstance(task.get("data"), Mapping) else _from_min
        for found in read(task):
            if isinstance(found, str):
                ledger.reject(file, place, found)
            else:
                ledger.use()
                judgements.append(found)
    return judgements


def _task(task: Task) -> dict[str, Any]:
    data: dict[str, Any] = {TEXT: task.text, "danlu_id": task.id}
    if task.origin:
        data["origin"] = task.origin
    if task.group is not None:
        data["group"] = task.group
    if task.turns:
        data["turns"] = [{"role": role, "content": content} for role, content in task.turns]
    if task.choices:
        data["choices"] = list(task.choices)
    if task.why:
        data["why"] = dict(task.why)
    written: dict[str, Any] = {"data": data}
    if task.suggestion is not None:
        written["predictions"] = [
            {
                "model_version": task.suggestion.model or _MODEL,
                "score": task.suggestion.score,
                "result": [result(task.suggestion.value, is_choice=bool(task.choices), id=f"{task.id[-8:]}-1")],
            }
        ]
    return written


def result(value: str, *, is_choice: bool, id: str) -> dict[str, Any]:
    """One region of an annotation or a prediction."""
    kind = "choices" if is_choice else "textarea"
    inner = {"choices": [value]} if is_choice else {"text": [value]}
    name = CHOICE if is_choice else ANSWER
    return {"id": id, "from_name": name, "to_name": TEXT, "type": kind, "value": inner}


def read_tasks(value: Sequence[Mapping[str, Any]]) -> list[Task]:
    """The tasks that `write_tasks` wrote."""
    tasks = []
    for written in value:
        data, predictions = written["data"], written.get("predictions") or ()
        suggestion = None
        if predictions:
            (said,) = predictions[0]["result"]
            model = predictions[0]["model_version"]
            suggestion = Suggestion(_said(said)[0], predictions[0]["score"], "" if model == _MODEL else model)
        tasks.append(
            Task(data["danlu_id"], data[TEXT], tuple(data.get("choices", ())), turns_of(data), data.get("origin", ""),
                 data.get("group"), suggestion, data.get("why", {}))
        )  # fmt: skip
    return tasks


def _from_full(task: Mapping[str, Any]) -> Iterable[Judgement | str]:
    """Every annotation of a task, or the reason why it is none."""
    data = task["data"]
    text = _text(data)
    annotations = task.get("annotations", task.get("completions")) or ()
    if not isinstance(annotations, list | tuple):
        yield "label_unreadable"
        return
    for annotation in annotations:
        if not isinstance(annotation, Mapping):
            yield "label_unreadable"
        elif annotation.get("was_cancelled") or annotation.get("skipped"):
            yield "label_skipped"
        elif text is None:
            yield "label_no_text"
        else:
            values = [value for region in annotation.get("result") or () for value in _said(region)]
            kinds = {region.get("type") for region in annotation.get("result") or () if isinstance(region, Mapping)}
            yield _judged(data, text, values, "choices" in kinds, _who(annotation.get("completed_by")),
                          str(annotation.get("created_at") or ""), str(task.get("id", "")))  # fmt: skip


def _from_min(row: Mapping[str, Any]) -> Iterable[Judgement | str]:
    """JSON_MIN: data and values in one flat object, one per annotation; control names are keys."""
    text = _text(row)
    choice, answer = row.get(CHOICE), row.get(ANSWER)
    if choice is None and answer is None:
        known = {TEXT, "danlu_id", "origin", "group", "turns", "choices", "why", "id", "annotator", "annotation_id",
                 "created_at", "updated_at", "lead_time"}  # fmt: skip
        rest = {name: value for name, value in row.items() if name not in known}
        choice = next((value for value in rest.values() if isinstance(value, str | Mapping)), None)
    if text is None:
        yield "label_no_text"
        return
    told = choice if choice is not None else answer
    values = list(_flat(told))
    yield _judged(row, text, values, choice is not None, _who(row.get("annotator")), str(row.get("created_at") or ""),
                  str(row.get("id", "")))  # fmt: skip


def _judged(
    data: Mapping[str, Any], text: str, values: Sequence[str], is_choice: bool, who: str, when: str, id: str
) -> Judgement | str:
    """A judgement, or the reason why there is none; a text may be written in several pieces, a label may not."""
    if not any(value.strip() for value in values):
        return "label_empty"
    if is_choice and len(values) > 1:
        return "label_several"
    choices = tuple(str(choice) for choice in data.get("choices") or ()) or ((values[0],) if is_choice else ())
    group = data.get("group")
    return Judgement(
        str(data.get("danlu_id") or id), "\n".join(values), text, turns_of(data), who, when,
        str(group) if group is not None else None, choices if is_choice else (),
    )  # fmt: skip


def _said(region: Any) -> list[str]:
    """The values of one region: choices or texts; other types (spans, ratings) say nothing here."""
    value = region.get("value") if isinstance(region, Mapping) else None
    if not isinstance(value, Mapping):
        return []
    return list(_flat({name: value[name] for name in ("choices", "text") if name in value}))


def _flat(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in (value.get("choices"), value.get("text")):
            yield from _flat(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _flat(inner)


def _text(data: Mapping[str, Any]) -> str | None:
    """What was shown: `text`, or the only string of somebody else's task."""
    if isinstance(data.get(TEXT), str):
        return str(data[TEXT])
    strings = [value for name, value in data.items() if isinstance(value, str) and name not in ("danlu_id", "origin")]
    return strings[0] if len(strings) == 1 else None


def _who(told: Any) -> str:
    """`completed_by` is a number, or an object with e-mail and id, by version and role."""
    if isinstance(told, Mapping):
        return str(told.get("email") or told.get("id") or "")
    return "" if told is None else str(told)
