"""`danlu track`: a run that is there, shown to a tracker."""

from __future__ import annotations

from pathlib import Path

from danlu.cli.targets import open_target
from danlu.cli.voice import Voice
from danlu.core.messages import say
from danlu.run.mirror import Mirror


def track(target: str, to: str, place: str, runs: Path, voice: Voice) -> None:
    run = open_target(target, (), runs)
    mirror = Mirror(run, to, place)
    figures = mirror.catch_up()
    mirror.close(is_over=True)
    voice.say(say("track.done", figures=figures, run=run.name, to=to))
    voice.result({"run": run.name, "to": to, "figures": figures})
