"""JSON out of what a model says: fences, chatter before and after, trailing commas, single quotes, missing ends.

Strict parsing comes first. The repair is json-repair's; what it guesses is checked like everything else, and the last
item of a reply that was cut off is never believed.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from danlu.core.errors import DataError

MAX_CHARACTERS = 200_000
MAX_DEPTH = 40
_FENCE = re.compile(r"```[a-zA-Z]*\s*\n?(.*?)(?:```|\Z)", re.DOTALL)
_OPENING = re.compile(r"[\[{]")


def parse_object(text: str) -> dict[str, Any] | None:
    """The first JSON object in a reply, or None."""
    value = _parse(text)
    if isinstance(value, list):
        value = next((entry for entry in value if isinstance(entry, dict)), None)
    return value if isinstance(value, dict) else None


def parse_items(text: str, *, is_cut: bool = False) -> list[dict[str, Any]] | None:
    """The objects of a reply: `{"items": [...]}`, a bare list, objects one after another; None when there is no JSON.

    `is_cut`: the reply ended at its token limit, so its last item may be half of one and is left out.
    """
    value = _parse(text)
    if isinstance(value, dict):
        lists = [
            entry for entry in value.values() if isinstance(entry, list) and any(isinstance(e, dict) for e in entry)
        ]
        is_item = any(name in value for name in ("question", "instruction", "turns"))
        is_empty = not lists and any(entry == [] for entry in value.values())
        value = [] if is_empty and not is_item else [value] if is_item or not lists else max(lists, key=len)
    if not isinstance(value, list):
        return None
    items = [entry for entry in value if isinstance(entry, dict)]
    return items[:-1] if is_cut else items


def text_at(item: dict[str, Any], *names: str) -> str:
    """The first of these entries that is text, stripped; "" where none is."""
    for name in names:
        value = item.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    return ""


def texts_at(item: dict[str, Any], *names: str) -> list[str]:
    """The first of these entries as a list of texts: a list, or one text; objects give their `text` or `quote`."""
    for name in names:
        value = item.get(name)
        listed = value if isinstance(value, list) else [value]
        texts = [text_at(entry, "text", "quote") if isinstance(entry, dict) else entry for entry in listed]
        found = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
        if found:
            return found
    return []


def _parse(text: str) -> Any:
    text = text.strip()[:MAX_CHARACTERS]
    fenced = _FENCE.search(text)
    for candidate in [text] if fenced is None else [fenced[1], text]:
        start = _OPENING.search(candidate)
        if start is None:
            continue
        body = candidate[start.start() :].strip()
        for end in (len(body), max(body.rfind("}"), body.rfind("]")) + 1):
            try:
                return orjson.loads(body[:end])
            except orjson.JSONDecodeError:
                continue
        if _depth(body) <= MAX_DEPTH:
            return _repaired(body)
    return None


def _depth(text: str) -> int:
    """How deeply brackets nest, those in strings too: a bound, so that no repair runs out of stack."""
    depth = deepest = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    return deepest


def _repaired(text: str) -> Any:
    try:
        import json_repair  # in the data extra; only broken replies need it
    except ModuleNotFoundError as error:
        raise DataError("data.missing_package", what="JSON", package="json-repair") from error
    try:
        return json_repair.loads(text, skip_json_loads=True)
    except (ValueError, RecursionError, IndexError):  # a repair that gives up is no reply
        return None
