"""Where the datasets that another suite's file names lie, and which of their columns is what.

LLaMA-Factory names entries of a `dataset_info.json`, Axolotl files or hub ids with field names, ms-swift and TRL files
or hub ids. What lies on a hub is not fetched: its name is handed back, for somebody to fetch and to name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from danlu.core.files import read_json
from danlu.recipe.habit_values import Suite

Missing = tuple[str, Any, str]
"""Key, what it names, and which reason of the catalogue's room `translate` says why it is not carried."""
INFO = "dataset_info.json"
PARTS = {
    "prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history",
    "messages": "conversations", "tools": "tools", "chosen": "chosen", "rejected": "rejected", "kto_tag": "desirable",
}  # fmt: skip
"""LLaMA-Factory's names of parts, and danlu's."""
FIELDS = {
    "field_instruction": "instruction", "field_input": "input", "field_output": "output", "field_system": "system",
    "field_messages": "conversations", "field_chosen": "chosen", "field_rejected": "rejected", "field": "text",
}  # fmt: skip
"""Axolotl's."""
KNOWN_CHATS = ("conversations", "messages")


@dataclass(frozen=True, slots=True)
class Found:
    """A dataset that is on this machine."""

    path: Path
    origin: str
    format: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    num_rows: str = ""
    """As many as are taken of it elsewhere; "" for all."""


def find_datasets(suite: Suite, said: Mapping[str, Any], file: Path) -> tuple[list[Found], list[Missing], Found | None]:
    """(what training reads, what is not here, questions that are not trained on)."""
    found, missing = list[Found](), list[Missing]()
    for one in _named(suite, said, file):
        if isinstance(one, Found):
            found.append(one)
        else:
            missing.append(one)
    questions = None
    for one in _listed(suite, said, "eval_dataset", file):
        if isinstance(one, Found) and questions is None:
            questions = one
        else:
            missing.append(("eval_dataset", one.origin if isinstance(one, Found) else one[1], "one_file"))
    return found, missing, questions


def _named(suite: Suite, said: Mapping[str, Any], file: Path) -> Iterator[Found | Missing]:
    if suite == "Axolotl":
        for entry in said.get("datasets") or ():
            yield _axolotl(entry, file) if isinstance(entry, dict) else _plain("datasets", str(entry), file)
        return
    for key in ("dataset", "train_file", "dataset_name", "datasets", "dataset_mixer"):
        yield from _listed(suite, said, key, file)


def _listed(suite: Suite, said: Mapping[str, Any], key: str, file: Path) -> Iterator[Found | Missing]:
    """A list, a mapping's names, or names with commas between."""
    given = said.get(key) or ()
    names: Sequence[Any] = given.split(",") if isinstance(given, str) else list(given)
    for entry in names:
        name = str(entry.get("path", "")) if isinstance(entry, dict) else str(entry).strip()
        if suite == "LLaMA-Factory":
            yield _llama_factory(key, name, str(said.get("dataset_dir") or "data"), file)
        else:
            yield _plain(key, name, file)


def _plain(key: str, name: str, file: Path) -> Found | Missing:
    """A path, or a hub's id; `#500` takes only so many rows of it elsewhere."""
    path, _, count = name.partition("#")
    place = _place(path, file)
    if place is None:
        return key, name, "on_hub"
    return Found(place, f"{key}: {name}", num_rows=count)


def _axolotl(entry: Mapping[str, Any], file: Path) -> Found | Missing:
    named = entry.get("data_files") or entry.get("path") or ""
    name = str(named[0] if isinstance(named, list) and named else named)
    place = _place(name, file)
    if place is None:
        return "datasets", name, "on_hub"
    columns = {part: str(entry[key]) for key, part in FIELDS.items() if isinstance(entry.get(key), str)}
    return Found(place, f"datasets: {name}, type: {entry.get('type', '-')}", columns=_worth_saying(columns))


def _llama_factory(key: str, name: str, folder: str, file: Path) -> Found | Missing:
    info = next((place / INFO for place in _folders(folder, file) if (place / INFO).is_file()), None)
    if info is None:
        return key, name, "no_info"
    try:
        entry = read_json(info).get(name)
    except (orjson.JSONDecodeError, AttributeError):
        return key, name, "no_info"
    if not isinstance(entry, dict):
        return key, name, "not_in_info"
    place = info.parent / str(entry.get("file_name", ""))
    if "file_name" not in entry or not place.exists():
        return key, name, "on_hub"
    given = entry.get("columns") or {}
    columns = {PARTS[part]: str(column) for part, column in given.items() if part in PARTS}
    if set(given) == {"prompt"}:
        columns = {"text": str(given["prompt"])}
    elif entry.get("ranking") and "instruction" in columns:
        columns["question"] = columns.pop("instruction")
    is_plain_chat = entry.get("formatting") == "sharegpt" and not entry.get("tags") and not entry.get("ranking")
    form = "sharegpt" if is_plain_chat else ""
    return Found(place, f"{key}: {name} ({INFO})", form, _worth_saying(columns))


def _worth_saying(columns: dict[str, str]) -> dict[str, str]:
    """Without those that bear the part's own name, or a chat's usual one: they are found by themselves."""
    return {
        part: column
        for part, column in columns.items()
        if part != column and not (part == "conversations" and column in KNOWN_CHATS)
    }


def _place(name: str, file: Path) -> Path | None:
    """Where a path is, seen from here or from the file; None where it is nowhere: then it is a hub's id."""
    return next((place for place in _folders(name, file) if name and place.exists()), None)


def _folders(name: str, file: Path) -> Iterator[Path]:
    """From the current folder, the file's own, and those above it: suites are started in their checkout's root."""
    path = Path(name).expanduser()
    yield path
    if not path.is_absolute():
        yield from (parent / path for parent in (file.resolve().parent, *file.resolve().parent.parents))
