"""What `danlu why` prints: the way of a sample back to its document, and on to all that was made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu.cli.targets import open_target
from danlu.cli.voice import Voice
from danlu.core.messages import listed, say
from danlu.pipeline.why import why

_SHOWN = 200
WHOLE = 3
"""So many samples are told whole, the others in two lines: who wants more of one names it by its id."""


def show_why(wanted: str, target: str | None, runs: Path, voice: Voice) -> None:
    """Trace a sample in one run, or in all of them."""
    only = [open_target(target, (), runs).folder] if target else []
    answer = why(wanted, runs, only=only)
    for number, sample in enumerate(answer.samples):
        if number and number < WHOLE:
            voice.say()
        if number < WHOLE:
            _show(sample, voice)
        else:
            _show_head(sample, voice)
    if answer.num_more:
        voice.say()
        voice.say(say("flow.why_more", num=answer.num_more), "yellow")
    for run in answer.rows_gone:
        voice.say(say("flow.why_rows_gone", run=run), "yellow")
    for problem in answer.changed:
        voice.say(problem["message"], "red")
    voice.result(answer.to_json())


def _show_head(sample: dict[str, Any], voice: Voice) -> None:
    place = (
        say(f"flow.why_part_{sample['part']}") if sample["part"] and not sample["left_out"] else say("flow.why_none")
    )
    voice.say(say("flow.why_head", id=sample["id"] or "-", run=sample["run"], place=place), "bold")
    if sample["text"]:
        voice.say(f"  {_line(sample['text'])}", "dim")


def _show(sample: dict[str, Any], voice: Voice) -> None:
    _show_head(sample, voice)
    if sample["left_out"]:
        voice.say("  " + say("flow.why_left_out", reason=sample["left_out"]["text"]), "yellow")
    for item in sample["items"]:
        voice.say("  " + say("flow.why_item", **item))
    for stage in sample["stages"]:
        voice.say("  " + say("flow.why_stage", stage=stage["stage"], text=stage["text"]))
    if sample["flags"]:
        voice.say("  " + say("flow.why_flags", flags=listed(sample["flags"])))
    if sample["level"]:
        voice.say("  " + say("flow.why_level", level=sample["level"]))
    _show_way_back(sample, voice)
    for use in sample["used_by"]:
        voice.say("  " + say("flow.why_run", run=use["run"]))
        for checkpoint in use["checkpoints"]:
            voice.say("    " + say("flow.why_checkpoint", folder=checkpoint))
        for artifact in use["artifacts"]:
            digest = str(artifact["digest"])[:12]
            voice.say(
                "    " + say("flow.why_artifact", kind=artifact["kind"], folder=artifact["folder"], digest=digest)
            )


def _show_way_back(sample: dict[str, Any], voice: Voice) -> None:
    if sample["made_by"]:
        voice.say("  " + say("flow.why_made_by", who=sample["made_by"]))
    for parent in sample["parents"]:
        voice.say("  " + say("flow.why_parent", id=parent["id"], where=parent.get("where", "?")))
        if parent.get("text"):
            voice.say(f"    {_line(parent['text'])}", "dim")
    for proof in sample["evidence"]:
        where = proof.get("file") or str(proof.get("document", "?"))[:12]
        voice.say("  " + say("flow.why_evidence", where=where, start=proof.get("start"), end=proof.get("end")))
        voice.say(f"    {_line(str(proof.get('text', '')))}", "dim")
    origin = sample["origin"]
    voice.say("  " + say("flow.why_origin", file=origin["file"], line=origin["line"]))
    if origin["page"] is not None:
        voice.say("    " + say("flow.why_page", page=origin["page"]))
    if origin["start"] is not None:
        voice.say("    " + say("flow.why_range", start=origin["start"], end=origin["end"]))
    if origin["document"]:
        state = say(f"flow.why_{origin['state']}")
        voice.say("    " + say("flow.why_document", digest=origin["document"][:16], state=state))


def _line(text: str) -> str:
    """A text on one line, cut."""
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN else f"{flat[:_SHOWN]}…"
