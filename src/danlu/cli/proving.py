"""Prints what an evaluation came to beyond its table: the learning curve, and the exit code that a gate gives."""

from __future__ import annotations

from typing import Any

import typer

from danlu.cli.voice import Voice
from danlu.core.messages import say
from danlu.evaluation.diagnosis import Finding, diagnose
from danlu.evaluation.gate import percent, points
from danlu.evaluation.report import Report

HELD = 1
"""Exit code of a model that the gate holds; 2 stays for what could not be done at all."""


def show_curve(curve: dict[str, Any], voice: Voice) -> None:
    rows = []
    for point in curve["points"]:
        low, high = point["interval"]
        rows.append(
            (percent(point["ratio"]), f"{point['num_rows']:,}", percent(point["accuracy"]),
             f"{percent(low)} – {percent(high)}")
        )  # fmt: skip
    voice.table([say("proof.curve"), say("proof.curve_rows"), say("report.accuracy_chart"), "95 %"], rows)
    doubling = curve["doubling"]
    low, high = doubling["interval"]
    voice.say(
        say("proof.curve_note", share=percent(doubling["from"]), gain=points(doubling["value"]), low=points(low),
            high=points(high))
    )  # fmt: skip
    for told in diagnose({"curve": curve}):
        voice.say(f"  {told.text()}")


def show_diagnosis(report: Report, voice: Voice) -> None:
    """What the curves and the memorised rows say, with the knob to turn."""
    for told in report.diagnosis:
        finding = Finding.from_json(told)
        voice.say(f"  {'✓' if finding.is_good else '!'} {finding.text()}")
        if remedy := finding.remedy():
            voice.say(f"      → {remedy}", "yellow")


def exit_as_judged(report: Report) -> None:
    """Exit 1 when the gate holds the model, or nothing was judged: what was not proven does not pass."""
    if report.verdict is None or report.verdict.decision != "ship":
        raise typer.Exit(HELD)
