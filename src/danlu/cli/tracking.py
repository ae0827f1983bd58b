"""`danlu track`: a run that is there, shown to a tracker."""

from __future__ import annotations

from pathlib import Path

from danlu.cli.targets import open_target
from danlu.cli.voice import Voice
from danlu.core.errors import DanluError, RunError
from danlu.core.messages import say
from danlu.run.mirror import Mirror


def track(target: str, to: str, place: str, runs: Path, voice: Voice) -> None:
    run = open_target(target, (), runs)
    try:
        mirror = Mirror(run, to, place)
        figures = mirror.catch_up()
        mirror.close(is_over=True)
    except DanluError:
        raise
    except Exception as error:  # a tracker is another program: whatever it raises is said in its words
        told = str(error).strip().splitlines() or [""]
        raise RunError(
            "track.failed", where=place or run.name, given=to, why=f"{type(error).__name__}: {told[0]}"
        ) from error
    voice.say(say("track.done", figures=figures, run=run.name, to=to))
    if mirror.look:
        voice.say(say("cli.next", command=mirror.look))
    voice.result({"run": run.name, "to": to, "figures": figures})
