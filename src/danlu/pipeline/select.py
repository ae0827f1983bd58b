"""select: which rows are worth a person's time. Out come files for the labelling tools.

doubt (a model, rules, given numbers) x distance from what is labelled or chosen x density, see `data/labelling`.
Leaves in the run's folder `select/`: tasks for Label Studio and SuperAnnotate, a page that says what was chosen and
why, `selection.json`. The way back is `read_labels.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson

from danlu.core.errors import DataError, RunError
from danlu.core.files import write_bytes, write_json, write_text
from danlu.core.messages import LANGUAGES, Language, listed, say
from danlu.core.progress import Progress, Silent
from danlu.data.encode import Encoder
from danlu.data.finding import SourceSpec
from danlu.data.labelling import label_studio, superannotate
from danlu.data.labelling.choosing import Choice, choose, nearness
from danlu.data.labelling.classifier import SIZES, guess_unseen
from danlu.data.labelling.functions import WeakLabels
from danlu.data.labelling.label_errors import find_label_errors
from danlu.data.labelling.task import Suggestion, Task, task_of
from danlu.data.ledger import Ledger
from danlu.data.quality.vectors import Vectors, vectors_of
from danlu.data.rejects import write_rejects
from danlu.data.sample import Conversation, Feedback, Label, Preference, Sample
from danlu.data.split import fold
from danlu.engines.engine import Engine
from danlu.pipeline import select_doubts as ways
from danlu.pipeline.read_labels import FOLDER, LABEL_STUDIO, LABELLED, own_rows, private_rows
from danlu.pipeline.select_doubts import Doubted
from danlu.pipeline.select_html import render_selection
from danlu.run.run import Run

By = Literal["auto", "answers", "probabilities", "classifier", "functions", "scores", "spread", "errors"]
WAYS: tuple[By, ...] = ("auto", "answers", "probabilities", "classifier", "functions", "scores", "spread", "errors")
REPEATS = 5
MAX_ASKED_PER_ROW = 4
"""Rows that a model is asked about, per row of the budget; a wider pool is first thinned by spread."""
MAX_LABELLED = 2000
"""Labelled rows that distances are measured from; of more, every second, third, ... stands for its neighbours."""
MAX_CHARS = 600
CONFIG, SUPERANNOTATE, WEAK, SELECTION, POOL_REJECTS = (
    "label_studio.xml", "superannotate.jsonl", "weak_labels.jsonl", "selection.json", "pool_rejects.jsonl",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Selection:
    """What was chosen: tasks in order of worth, out of `num_pool` rows, by which way, and where the files lie."""

    tasks: tuple[Task, ...]
    by: By
    num_pool: int
    num_labelled: int
    pool_doubts: tuple[float, ...]
    folder: Path
    weak: WeakLabels | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    """Rows of the pool that could not be chosen from, by reason; each of them is in `pool_rejects.jsonl`."""

    @property
    def pages(self) -> dict[Language, Path]:
        return {language: self.folder / f"selection.{language}.html" for language in LANGUAGES}


@dataclass(frozen=True, slots=True)
class _Rows:
    """The pool and what is labelled already, as texts and vectors (pool first)."""

    pool: list[Sample]
    labelled: list[Label]
    tasks: list[Task]
    vectors: Vectors
    classes: tuple[str, ...]
    ledger: Ledger
    """Of the pool's reading: which of its rows could not be chosen from, and why."""

    @property
    def labels(self) -> list[str | None]:
        return [None] * len(self.pool) + [row.label for row in self.labelled]


@dataclass(frozen=True, slots=True)
class _How:
    """How doubt is measured, as far as the caller has said so."""

    by: By
    scores: Path | None
    functions: Path | None
    repeats: int
    engine: Engine | None


def select(
    run: Run,
    budget: int,
    *,
    by: By = "auto",
    pool: Sequence[Path | str] = (),
    scores: Path | None = None,
    functions: Path | None = None,
    repeats: int = REPEATS,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Selection:
    """Choose up to `budget` rows and write them for the labelling tools. `pool`: files of rows to choose from; without,
    the recipe's own sources are the pool. `engine`: who answers, the run's trained model where none is given."""
    progress = progress or Silent()
    rows = _read_rows(run, pool, progress)
    how = _How(by, scores, functions, repeats, engine)
    how = replace(how, by=_way(how, rows, run, is_pool_given=bool(pool)))
    weak = None
    if how.by == "errors":
        tasks, doubts = _doubtful_labels(rows, budget)
    else:
        doubted, asked = _doubt(how, rows, budget, run, progress)
        weak = doubted.weak
        tasks, doubts = _chosen(rows, doubted, asked, budget)
    selection = Selection(
        tuple(tasks),
        how.by,
        len(rows.pool),
        len(rows.labelled),
        tuple(doubts),
        run.path(FOLDER),
        weak,
        dict(rows.ledger.reasons),
    )
    _write(selection, rows)
    return selection


def _read_rows(run: Run, pool: Sequence[Path | str], progress: Progress) -> _Rows:
    """Labelled rows are the recipe's Label rows and those read back from people; the pool is what is not among them."""
    back = run.path(FOLDER, LABELLED)
    ledger = Ledger()
    own = own_rows(
        run,
        progress,
        Ledger() if pool else ledger,
        extra=[back] if pool and back.is_file() and back.stat().st_size else [],
    )
    labelled = [sample for sample in own if isinstance(sample, Label)]
    if pool:
        known = {fold(task_of(sample).text) for sample in own}
        found = private_rows(run, [SourceSpec(path) for path in pool], progress, ledger)
        rows = _distinct([sample for sample in found if fold(task_of(sample).text) not in known])
    else:
        rows, labelled = (own, []) if not labelled else (list[Sample](labelled), [])
        rows = _distinct(rows) if not any(isinstance(row, Label) for row in rows) else rows
    if not rows:
        raise DataError("select.empty_pool", where=listed(map(str, pool)) or "data.sources")
    classes = tuple(sorted(ways.known_labels([*labelled, *(row for row in rows if isinstance(row, Label))])))
    tasks = [task_of(sample, classes) for sample in rows]
    texts = [task.text[:MAX_CHARS] for task in tasks] + [row.text[:MAX_CHARS] for row in labelled]
    return _Rows(rows, labelled, tasks, vectors_of(texts, sizes=SIZES), classes, ledger)


def _distinct(samples: Sequence[Sample]) -> list[Sample]:
    """Nobody labels the same text twice."""
    return list({fold(task_of(sample).text): sample for sample in reversed(samples)}.values())[::-1]


def _way(how: _How, rows: _Rows, run: Run, *, is_pool_given: bool) -> By:
    """What `auto` means here; DataError where a way lacks what it needs."""
    if how.by == "auto":
        if how.functions or how.scores:
            return "functions" if how.functions else "scores"
        if len(rows.classes) > 1:
            return "classifier" if is_pool_given else "errors"
        return "answers" if _is_trained(run) and _can_answer(rows) else "spread"
    if how.by == "functions" and how.functions is None:
        raise DataError("select.needs_file", given=how.by, option="--functions")
    if how.by == "scores" and how.scores is None:
        raise DataError("select.needs_file", given=how.by, option="--scores")
    return how.by


def _is_trained(run: Run) -> bool:
    stages = run.recipe.plan_stages()
    return run.outcome(f"train-{len(stages)}-{stages[-1].method.kind}") is not None


def _can_answer(rows: _Rows) -> bool:
    return any(isinstance(row, Conversation | Preference | Feedback) for row in rows.pool) or bool(rows.classes)


def _doubt(how: _How, rows: _Rows, budget: int, run: Run, progress: Progress) -> tuple[Doubted, list[int]]:
    """Doubts, and the places of the pool that they are of: a model is not asked about more rows than are worth it."""
    everything = list(range(len(rows.pool)))
    if how.by == "classifier":
        return ways.by_classifier(rows.vectors, rows.labels, len(rows.pool)), everything
    if how.by == "functions":
        assert how.functions is not None, "checked before"
        return ways.by_functions(rows.tasks, ways.read_functions(how.functions)), everything
    if how.by == "scores":
        assert how.scores is not None, "checked before"
        return ways.by_scores(rows.tasks, how.scores), everything
    if how.by == "spread":
        return ways.by_spread(rows.tasks), everything
    asked = _thinned(rows, budget * MAX_ASKED_PER_ROW)
    tasks = [rows.tasks[place] for place in asked]
    answering = how.engine or _open(run)
    encoder: Encoder | None = getattr(answering, "encoder", None)
    if how.by == "answers":
        return ways.by_answers(tasks, answering, repeats=how.repeats, progress=progress, encoder=encoder), asked
    if encoder is None:
        raise DataError("select.no_probabilities", given=answering.name)
    return ways.by_probabilities(tasks, answering, encoder, progress), asked


def _open(run: Run) -> Engine:
    """The run's trained model."""
    if not _is_trained(run):
        raise RunError("select.not_trained", where=str(run.folder))
    from danlu.pipeline.open_engine import open_engine  # torch: only where a model is asked

    return open_engine(run)


def _thinned(rows: _Rows, most: int) -> list[int]:
    if len(rows.pool) <= most:
        return list(range(len(rows.pool)))
    pool = _first(rows.vectors, len(rows.pool))
    return sorted(choice.index for choice in choose(pool, np.ones(len(pool)), most))


def _chosen(rows: _Rows, doubted: Doubted, asked: Sequence[int], budget: int) -> tuple[list[Task], list[float]]:
    """The rows worth most, with suggestion and reason."""
    pool = _first(rows.vectors, len(rows.pool))
    doubts = np.full(len(pool), 1e-6)
    doubts[list(asked)] = doubted.doubts
    near = None
    if rows.labelled:
        step = -(-len(rows.labelled) // MAX_LABELLED)
        near = nearness(rows.vectors, range(len(pool), len(rows.vectors), step))[: len(pool)]
    suggestions = dict(zip(asked, doubted.suggestions, strict=True))
    tasks = [
        replace(rows.tasks[choice.index], suggestion=suggestions.get(choice.index), why=_why(choice))
        for choice in choose(pool, doubts, min(budget, len(asked)), labelled=near)
    ]
    return tasks, [float(doubt) for doubt in doubted.doubts]


def _why(choice: Choice) -> dict[str, Any]:
    return {
        "batch": choice.batch, "score": choice.score, "doubt": choice.doubt, "distance": choice.distance,
        "density": choice.density,
    }  # fmt: skip


def _doubtful_labels(rows: _Rows, budget: int) -> tuple[list[Task], list[float]]:
    """Labelled rows whose label is probably wrong, worst first; the likelier label is the suggestion."""
    places = [place for place, row in enumerate(rows.pool) if isinstance(row, Label)]
    labels = [row.label for row in rows.pool if isinstance(row, Label)]
    if not labels:
        raise DataError("select.no_labels")
    guess = guess_unseen(_some(rows.vectors, places), labels)
    numbers = np.array([guess.classes.index(label) for label in labels])
    found = find_label_errors(numbers, guess.probabilities)
    tasks: list[Task] = []
    for error in found[:budget]:
        row = rows.tasks[places[error.index]]
        likely = guess.classes[error.likely]
        suggestion = Suggestion(likely, round(float(guess.probabilities[error.index, error.likely]), 4), "classifier")
        why = {
            "batch": len(tasks) // 50 + 1,
            "score": error.margin,
            "doubt": error.margin,
            "given": labels[error.index],
        }
        tasks.append(replace(row, suggestion=suggestion, why=why))
    margins = {error.index: error.margin for error in found}
    return tasks, [margins.get(place, 0.0) for place in range(len(labels))]


def _first(vectors: Vectors, num: int) -> Vectors:
    end = int(vectors.starts[num])
    return Vectors(vectors.starts[: num + 1], vectors.places[:end], vectors.values[:end], vectors.num_dims)


def _some(vectors: Vectors, places: Sequence[int]) -> Vectors:
    """Some rows of them, in this order."""
    spans = [np.arange(vectors.starts[place], vectors.starts[place + 1]) for place in places]
    kept = np.concatenate(spans)
    starts = np.cumsum([0, *(len(span) for span in spans)], dtype=np.int64)
    return Vectors(starts, vectors.places[kept], vectors.values[kept], vectors.num_dims)


def _write(selection: Selection, rows: _Rows) -> None:
    """Everything the selection leaves behind; `selection.json` last: where it is, all is."""
    folder = selection.folder
    folder.mkdir(parents=True, exist_ok=True)
    items = superannotate.write_items(selection.tasks)
    write_rejects(rows.ledger, folder / POOL_REJECTS)
    write_json(folder / LABEL_STUDIO, label_studio.write_tasks(selection.tasks))
    write_text(
        folder / CONFIG, label_studio.config(rows.classes if selection.tasks and selection.tasks[0].choices else ())
    )
    write_bytes(folder / SUPERANNOTATE, b"".join(orjson.dumps(item) + b"\n" for item in items))
    if selection.weak is not None:
        write_bytes(folder / WEAK, b"".join(_weak_lines(selection.weak, rows)))
    for language, page in selection.pages.items():
        write_text(page, render_selection(selection_json(selection), language=language))
    write_json(folder / SELECTION, selection_json(selection))


def selection_json(selection: Selection) -> dict[str, Any]:
    """What `--json` prints and the page is drawn from."""
    return {
        "by": selection.by,
        "pool": selection.num_pool,
        "refused": dict(selection.refused),
        "labelled": selection.num_labelled,
        "chosen": len(selection.tasks),
        "folder": str(selection.folder),
        "pool_doubts": list(selection.pool_doubts) if len(selection.pool_doubts) <= 100_000 else [],
        "functions": [
            {name: getattr(one, name) for name in one.__dataclass_fields__} for one in selection.weak.facts
        ] if selection.weak else [],
        "tasks": [
            {
                "id": task.id, "origin": task.origin, "text": task.text, "why": dict(task.why),
                "suggestion": task.suggestion.value if task.suggestion else None,
                "sureness": task.suggestion.score if task.suggestion else None,
            }
            for task in selection.tasks
        ],
    }  # fmt: skip


def _weak_lines(weak: WeakLabels, rows: _Rows) -> list[bytes]:
    """Rows that functions labelled, as a source for a recipe; how sure they are stands with each."""
    return [
        orjson.dumps({"text": task.text, "label": label, "made_by": "functions", "sureness": sureness}) + b"\n"
        for task, label, sureness in zip(rows.tasks, weak.labels, weak.sureness, strict=True)
        if label is not None
    ]


def next_step(selection: Selection) -> str:
    """What a person does now, in one sentence."""
    return say("select.next", file=str(selection.folder / LABEL_STUDIO), config=str(selection.folder / CONFIG))
