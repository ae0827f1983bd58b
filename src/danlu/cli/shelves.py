"""`danlu list SHELF`: what stands on a shelf, its own items and those that other packages add."""

from __future__ import annotations

import importlib
from typing import Any

from danlu.cli.voice import Voice
from danlu.core.errors import RecipeError
from danlu.core.messages import current_language, listed, load_room, say
from danlu.core.shelf import Shelf

SHELVES = {
    "methods": "danlu.training.methods:METHODS",
    "formats": "danlu.data.formats:FORMATS",
    "sources": "danlu.data.sources:READERS",
    "cleaners": "danlu.data.cleaners:CLEANERS",
    "ocr": "danlu.data.ocr:RECOGNISERS",
    "detectors": "danlu.data.privacy.detectors:DETECTORS",
    "executors": "danlu.data.flow.executors:EXECUTORS",
    "augment": "danlu.data.augment:AUGMENTERS",
    "templates": "danlu.data.templates:TEMPLATES",
    "families": "danlu.model.families:FAMILIES",
    "quantizers": "danlu.model.quantizers:QUANTIZERS",
    "metrics": "danlu.evaluation.metrics:METRICS",
    "tasks": "danlu.evaluation.tasks:TASKS",
    "harnesses": "danlu.evaluation.harnesses:HARNESSES",
    "adapters": "danlu.adapters:ADAPTERS",
    "engines": "danlu.engines:ENGINES",
    "exports": "danlu.exports:EXPORTS",
    "readers": "danlu.exports.readers:READERS",
    "drivers": "danlu.serving.drivers:DRIVERS",
    "trackers": "danlu.run.trackers:TRACKERS",
}


def show_shelf(name: str | None, voice: Voice) -> None:
    """The items of one shelf; without a name, the shelves."""
    if name is None:
        told = {shelf: say(f"cli.shelf_{shelf}") for shelf in SHELVES}
        voice.table([say("cli.col_name"), say("cli.col_about")], list(told.items()))
        voice.say(say("cli.next", command="danlu list NAME"))
        voice.result({"shelves": [{"name": s, "place": place, "about": told[s]} for s, place in SHELVES.items()]})
        return
    if name not in SHELVES:
        raise RecipeError("cli.unknown_shelf", given=name, known=listed(SHELVES))
    module, _, attribute = SHELVES[name].partition(":")
    shelf: Shelf[Any] = getattr(importlib.import_module(module), attribute)
    items = [{"name": item, "place": shelf.places[item], "about": _about(name, item)} for item in shelf.names()]
    voice.table(
        [say("cli.col_name"), say("cli.col_about")],
        [(item["name"], item["about"] or item["place"]) for item in items],
        title=name,
    )
    voice.result({"shelf": name, "items": items})


def _about(shelf: str, item: str) -> str:
    """What an item is, in a line; "" for items of other packages, of which only their place is known."""
    room, key = ("metrics", f"about_{item}") if shelf == "metrics" else ("shelves", f"{shelf}_{item}")
    return say(f"{room}.{key}") if key in load_room(room, current_language()) else ""
