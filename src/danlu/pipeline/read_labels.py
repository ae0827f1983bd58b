"""read_labels: what people said in a labelling tool, as rows of a source with the person as their provenance.

The counterpart of `select.py`: exports of Label Studio or SuperAnnotate in, `select/labelled.jsonl` out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from danlu.core.errors import DataError
from danlu.core.files import write_bytes
from danlu.data.formats import load_format
from danlu.data.labelling import label_studio, superannotate
from danlu.data.labelling.task import Judgement, Task, sample_of, settle
from danlu.data.ledger import Ledger
from danlu.data.rejects import write_rejects
from danlu.data.sample import Label, Origin
from danlu.run.run import Run

FOLDER = "select"
LABEL_STUDIO, LABELLED, REFUSED = "label_studio.json", "labelled.jsonl", "label_rejects.jsonl"


@dataclass(frozen=True, slots=True)
class ReadLabels:
    """What came back from people: rows written, the account of those that were not, where both lie."""

    num_rows: int
    num_read: int
    ledger: Ledger
    path: Path


def read_labels(run: Run, exports: Sequence[Path]) -> ReadLabels:
    """Turn exports of Label Studio or SuperAnnotate into `labelled.jsonl`: rows with a person as their provenance.

    What several people said of one task is settled by majority; ties, skipped and unreadable annotations are refused,
    each with its reason, in `label_rejects.jsonl`. Rows of earlier exports stay; a task judged again is replaced."""
    folder, ledger = run.path(FOLDER), Ledger()
    folder.mkdir(parents=True, exist_ok=True)
    sent = _sent(folder)
    lines = _labelled_before(folder / LABELLED)
    for path in exports:
        judgements, tool = _judgements(path, ledger, sent)
        for number, judgement in enumerate(settle(judgements, ledger, path.name), start=1):
            sample = sample_of(judgement, Origin(path.name, number), tool)
            writer = load_format("label" if isinstance(sample, Label) else "messages")
            lines[judgement.task] = orjson.dumps(writer.write(sample)) + b"\n"
    write_bytes(folder / LABELLED, b"".join(lines.values()))
    write_rejects(ledger, folder / REFUSED)
    return ReadLabels(len(lines), ledger.num_read, ledger, folder / LABELLED)


def _labelled_before(path: Path) -> dict[str, bytes]:
    """Rows read back earlier, by the task they answer."""
    if not path.is_file():
        return {}
    return {orjson.loads(line)["parents"][0]: line + b"\n" for line in path.read_bytes().splitlines() if line}


def _sent(folder: Path) -> dict[str, Task]:
    """The tasks that were sent out from this folder, by id."""
    path = folder / LABEL_STUDIO
    return (
        {task.id: task for task in label_studio.read_tasks(orjson.loads(path.read_bytes()))} if path.is_file() else {}
    )


def _judgements(path: Path, ledger: Ledger, sent: dict[str, Task]) -> tuple[list[Judgement], str]:
    """Read one export; which tool it came from shows in its shape."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError("select.cannot_open", where=str(path)) from error
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        value = None
    first = value[0] if isinstance(value, list) and value else value
    if value is not None and not (isinstance(first, dict) and isinstance(first.get("metadata"), dict)):
        return label_studio.read_export(value, ledger, path.name), label_studio.TOOL
    items = superannotate.parse(content, path.name)
    return superannotate.read_export(items, ledger, path.name, sent=sent), superannotate.TOOL
