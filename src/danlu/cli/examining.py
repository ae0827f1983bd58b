"""`danlu examine`: prints what a harness found, paired."""

from __future__ import annotations

from pathlib import Path

import danlu
from danlu.cli.voice import Voice
from danlu.core.messages import say
from danlu.pipeline.examine import Hall, lines_of
from danlu.run.run import Run


def show_examined(
    run: Run,
    voice: Voice,
    *,
    harness: str,
    python: Path,
    tasks: tuple[str, ...],
    limit: int | None,
    scores: bool,
    include: Path | None,
    url: str | None,
    models: tuple[str, str],
) -> None:
    hall = Hall(harness, python, tasks, limit, scores, include, url, *models)
    examined = danlu.examine(run, hall, progress=voice.progress)
    heads = [say(f"harness.{name}") for name in ("task", "items", "base", "tuned", "difference", "p")]
    voice.table(heads, lines_of(examined))
    voice.say(say("harness.paired"))
    voice.result(examined)
