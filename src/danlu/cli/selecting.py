"""`danlu select`: rows worth a person's time, out to the labelling tools and back in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from danlu.cli.voice import Voice
from danlu.core.errors import RecipeError
from danlu.core.messages import current_language, listed, say
from danlu.core.shelf import nearest
from danlu.pipeline.read_labels import read_labels
from danlu.pipeline.select import POOL_REJECTS, By, Selection, next_step, select, selection_json
from danlu.run.run import Run

NUM_SHOWN = 10
_SHOWN_CHARS = 60


def show_selection(
    run: Run,
    voice: Voice,
    *,
    budget: int,
    by: str,
    pool: Sequence[Path],
    scores: Path | None,
    functions: Path | None,
    repeats: int,
) -> None:
    """Choose, write, print."""
    way = _way(by)
    selection = select(
        run, budget, by=way, pool=pool, scores=scores, functions=functions, repeats=repeats, progress=voice.progress
    )
    voice.say(say("select.told", chosen=len(selection.tasks), pool=selection.num_pool), "bold")
    if num_refused := sum(selection.refused.values()):
        voice.say(say("select.refused", num=num_refused, path=selection.folder / POOL_REJECTS), "yellow")
    voice.say(say(f"select.by_{selection.by}"))
    _show_rows(selection, voice)
    if selection.weak is not None:
        heads = [say(f"select.{name}") for name in ("function", "coverage", "conflict", "accuracy")]
        voice.table(heads, [(one.name, one.coverage, one.conflict, one.accuracy) for one in selection.weak.facts])
    if selection.tasks:
        voice.say(next_step(selection))
    voice.say(say("select.page", path=selection.pages[current_language()]))
    told = selection_json(selection)
    del told["pool_doubts"]
    voice.result(told)


def show_labels(run: Run, voice: Voice, exports: Sequence[Path]) -> None:
    """Read what the tools exported."""
    found = read_labels(run, exports)
    voice.say(say("select.read", rows=found.num_rows, read=found.num_read, refused=len(found.ledger.rejects)), "bold")
    for reason, often, entry in found.ledger.top_reasons():
        voice.say(f"  {often} × {say(f'ledger.{reason}', **entry.values)}", "yellow")
    voice.say(say("select.use", path=found.path))
    if found.corrected is not None:
        voice.say(say("select.use_corrected", path=found.corrected, rows=found.num_corrected))
    account = found.ledger.to_json()
    voice.result({"labelled": str(found.path), "rows": found.num_rows, "account": account["rows"],
                  "rejects": account["rejects"], "corrected": str(found.corrected) if found.corrected else None,
                  "num_corrected": found.num_corrected})  # fmt: skip


def _show_rows(selection: Selection, voice: Voice) -> None:
    heads = [say(f"select.{name}") for name in ("number", "text", "suggestion", "doubt")]
    rows = [
        (number, _short(task.text), _short(task.suggestion.value) if task.suggestion else "–",
         f"{task.why.get('doubt', 0.0):.2f}")
        for number, task in enumerate(selection.tasks[:NUM_SHOWN], start=1)
    ]  # fmt: skip
    if rows:
        voice.table(heads, rows)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARS else f"{line[:_SHOWN_CHARS]}…"


def _way(by: str) -> By:
    known: tuple[By, ...] = get_args(By)
    for way in known:
        if way == by:
            return way
    raise RecipeError("select.unknown_way", where="--by", given=by, nearest=nearest(by, known),
                      known=listed(known))  # fmt: skip
