"""What got worse? Everything in a report that fell, the worst news first. Reads a report; measures nothing.

`shown` tells news from noise: a loss whose interval leaves out zero is shown, any other may be chance and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from danlu.core.messages import Language, say
from danlu.evaluation.gate import part_name, points

NOTICEABLE = 0.02
"""A loss in accuracy, or a rise of perplexity, below this is not worth a lay reader's minute unless it is shown."""


@dataclass(frozen=True, slots=True)
class Loss:
    """`code` is a catalogue key `proof.worse_<code>`; `size`, a share of answers or of perplexity, orders."""

    code: str
    size: float
    shown: bool
    values: dict[str, str]
    name: str = ""

    def text(self, language: Language | None = None) -> str:
        named = self.values | ({"name": part_name(self.name, language)} if self.name else {})
        plain = say(f"proof.worse_{self.code}", language, **named)
        return plain if self.shown else say("proof.worse_unsure", language, what=plain)


def losses_of(report: Mapping[str, Any]) -> list[Loss]:
    """Shown losses first, then by size."""
    found = [*_domain(report), *_perplexity(report), *_general(report), *_kinds(report)]
    return sorted(found, key=lambda loss: (not loss.shown, -loss.size))


def _domain(report: Mapping[str, Any]) -> Iterator[Loss]:
    changes = report.get("difference")
    if not changes:
        return
    if changes["direction"] == "worse":
        yield Loss("domain", -changes["value"], True, {"points": points(changes["value"])})
    elif changes["num_lost"]:
        values = {"lost": str(changes["num_lost"]), "items": str(changes["num_items"])}
        yield Loss("lost", changes["num_lost"] / changes["num_items"], True, values)


def _perplexity(report: Mapping[str, Any]) -> Iterator[Loss]:
    section = report.get("forgetting") or {}
    if "ratio" not in section:
        return
    rise, is_shown = (
        section["ratio"] - 1,
        1 < section["interval"][0] < section["interval"][1],
    )  # a single text has no spread
    if rise > 0 and (is_shown or rise >= NOTICEABLE):
        yield Loss("perplexity", rise, is_shown, {"rise": f"{100 * rise:.0f}" if rise >= 0.01 else f"{100 * rise:.1f}"})


def _general(report: Mapping[str, Any]) -> Iterator[Loss]:
    section = report.get("general") or {}
    parts = section.get("categories", {})
    if section and (loss := _bounded("general", "", section)):
        yield loss
    for name, part in parts.items():
        if loss := _bounded("category", name, part):
            yield loss


def _bounded(code: str, name: str, part: Mapping[str, Any]) -> Loss | None:
    changes = part["difference"]
    is_shown = part["bounds"][1] < 0
    if changes["value"] >= 0 or not (is_shown or changes["value"] <= -NOTICEABLE):
        return None
    return Loss(code, -changes["value"], is_shown, _figures(changes), name)


def _kinds(report: Mapping[str, Any]) -> Iterator[Loss]:
    for task in ("edge", "probes"):
        for name, part in ((report.get(task) or {}).get("kinds") or {}).items():
            changes = part["difference"]
            is_shown = changes["direction"] == "worse"
            if changes["value"] < 0 and (is_shown or changes["value"] <= -NOTICEABLE):
                yield Loss(task, -changes["value"], is_shown, _figures(changes), name)


def _figures(changes: Mapping[str, Any]) -> dict[str, str]:
    return {"points": points(changes["value"]), "items": str(changes["num_items"])}
