"""read_labels: what people said in a labelling tool, as rows of a source with the person as their provenance.

The counterpart of `select.py`: exports of Label Studio or SuperAnnotate in, `select/labelled.jsonl` out; where labels
of the recipe were judged anew, `select/corrected.jsonl` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from danlu.core.errors import DataError
from danlu.core.files import write_bytes
from danlu.core.progress import Progress, Silent
from danlu.data.finding import SourceSpec
from danlu.data.formats import load_format
from danlu.data.identity import sample_id
from danlu.data.labelling import label_studio, superannotate
from danlu.data.labelling.task import Judgement, Task, sample_of, settle
from danlu.data.ledger import Ledger
from danlu.data.rejects import veiled, write_rejects
from danlu.data.sample import Label, Origin, Sample
from danlu.data.sources import read
from danlu.pipeline.passing import build_privacy
from danlu.run.run import Run

FOLDER = "select"
LABEL_STUDIO, LABELLED, REFUSED, CORRECTED = (
    "label_studio.json", "labelled.jsonl", "label_rejects.jsonl", "corrected.jsonl",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReadLabels:
    """What came back from people: rows written, the account of those that were not, where both lie."""

    num_rows: int
    num_read: int
    ledger: Ledger
    path: Path
    corrected: Path | None = None
    """Where labelled rows of the recipe were judged anew: all of them, with the labels as they are now."""
    num_corrected: int = 0
    """Labels that are not what they were."""


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
    corrected, num_corrected = _correct(run, lines)
    return ReadLabels(len(lines), ledger.num_read, ledger, folder / LABELLED, corrected, num_corrected)


def own_rows(run: Run, progress: Progress, ledger: Ledger, *, extra: Sequence[Path] = ()) -> list[Sample]:
    """Rows of the recipe's sources (and of further files) after its privacy: what it masks or drops is not shown to
    whoever labels."""
    specs = [
        SourceSpec(source.path, None if source.format == "auto" else source.format, source.columns or None)
        for source in run.recipe.data.sources
    ]
    return private_rows(run, [*specs, *map(SourceSpec, extra)], progress, ledger)


def private_rows(run: Run, specs: Sequence[SourceSpec], progress: Progress, ledger: Ledger) -> list[Sample]:
    """Rows of these files after the recipe's privacy; the ledger has the fate of every other one."""
    own = Ledger()
    samples = list(read(specs, own, progress=progress)) if specs else []
    privacy = build_privacy(run.recipe.data.privacy)
    kept: list[Sample] = []
    if privacy is not None:
        own.rejects = list(map(veiled, own.rejects))
        for before, (sample, fates) in zip(samples, privacy(samples), strict=True):
            if sample is not None:
                kept.append(sample)
            else:
                own.revoke(before.origin.file, before.origin.line, fates[-1].reason, **fates[-1].values)
    ledger.merge(own)
    return samples if privacy is None else kept


def _correct(run: Run, lines: Mapping[str, bytes]) -> tuple[Path | None, int]:
    """All labelled rows of the recipe with what people say of them now: a source to name instead of the old ones, for
    beside them the new labels would only contradict the old."""
    rows = [sample for sample in own_rows(run, Silent(), Ledger()) if isinstance(sample, Label)]
    judged = {name: orjson.loads(line)["label"] for name, line in lines.items() if b'"label":' in line}
    names = [sample_id(row) for row in rows]
    if judged.keys().isdisjoint(names):
        return None, 0
    num_corrected, written = 0, []
    for name, row in zip(names, rows, strict=True):
        if name in judged:
            written.append(lines[name])
            num_corrected += judged[name] != row.label
        else:
            kept = {"text": row.text, "label": row.label} | ({} if row.group is None else {"group": row.group})
            written.append(orjson.dumps(kept) + b"\n")
    path = run.path(FOLDER, CORRECTED)
    write_bytes(path, b"".join(written))
    return path, num_corrected


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
