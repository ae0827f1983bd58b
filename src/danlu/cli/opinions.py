"""`danlu feedback`: what people thought of answers, and the training rows that come of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from danlu.cli.voice import Voice
from danlu.core.errors import RunError
from danlu.core.messages import say
from danlu.serving.feedback import FOLDER, read_opinions, rows, summary
from danlu.serving.kept import read_kept
from danlu.serving.private import write_private
from danlu.serving.settings import HOME

FILES = {"samples": "samples.jsonl", "pairs": "pairs.jsonl", "judged": "judged.jsonl"}


def show(runs: Path, voice: Voice) -> None:
    opinions = read_opinions(runs / HOME / FOLDER)
    told = summary(opinions)
    if told:
        columns = [say(f"serve.col_{part}") for part in ("lens", "up", "down", "corrected")]
        voice.table(columns, [(lens, row["up"], row["down"], row["corrected"]) for lens, row in sorted(told.items())])
    else:
        voice.say(say("serve.no_feedback"))
    voice.result(told)


def export(folder: Path, runs: Path, voice: Voice) -> None:
    """samples.jsonl, pairs.jsonl, judged.jsonl: each a source that a recipe can name."""
    opinions = read_opinions(runs / HOME / FOLDER)
    if not opinions:
        raise RunError("serve.none_given", where=str(runs / HOME / FOLDER))
    fates: Counter[str] = Counter()
    lines: dict[str, list[bytes]] = {name: [] for name in FILES}
    kept = read_kept(runs / HOME, {opinion.id for opinion in opinions})
    for row in rows(opinions, kept.get, fates):
        lines[row.file].append(orjson.dumps(row.value))
    written: dict[str, Any] = {}
    for name, found in lines.items():
        if found:
            path = folder / FILES[name]
            write_private(path, b"\n".join(found) + b"\n")
            written[name] = {"file": str(path), "rows": len(found)}
    for name, facts in written.items():
        voice.say(say("serve.wrote", what=say(f"serve.what_{name}"), **facts))
    if fates["not_kept"]:
        voice.fail(say("serve.not_kept", count=fates["not_kept"], all=len(opinions)))
    voice.result({"opinions": len(opinions), "fates": dict(fates), "written": written})
