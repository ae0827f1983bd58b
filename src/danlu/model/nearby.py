"""Bases that lie on this machine already: fetched by danlu, or by the hubs' own tools. Nothing is asked of a network.

huggingface_hub keeps `~/.cache/huggingface/hub/models--ORG--NAME/snapshots/COMMIT`, ModelScope
`~/.cache/modelscope/hub/models/ORG/NAME` with each dot of a name as `___`, before 1.22 without `models`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from danlu.core.errors import DanluError
from danlu.model.hub import ENDPOINTS, Hub, find_base
from danlu.model.shards import find_shards

HUGGINGFACE = Path("~/.cache/huggingface/hub")
MODELSCOPE = (Path("~/.cache/modelscope/hub/models"), Path("~/.cache/modelscope/hub"))
TOKENIZERS = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class Nearby:
    """A base as a recipe names it: a hub id that danlu has fetched, or the folder in which another tool left it."""

    base: str
    hub: Hub
    folder: Path


def find_nearby(ids: Mapping[str, str]) -> Nearby | None:
    """Where a base lies whole; `ids` are its names by hub. None where it would have to be fetched."""
    for hub in ENDPOINTS:
        if (name := ids.get(hub)) is None:
            continue
        try:
            return Nearby(name, hub, find_base(name, hub=hub, is_offline=True))
        except DanluError:  # not fetched by danlu
            pass
        for folder in _kept_by_tools(hub, name):
            if _is_whole(folder):
                return Nearby(str(folder), hub, folder)
    return None


def _kept_by_tools(hub: Hub, name: str) -> Iterator[Path]:
    if hub == "huggingface":
        snapshots = HUGGINGFACE.expanduser() / f"models--{name.replace('/', '--')}" / "snapshots"
        yield from sorted(snapshots.glob("*"))
    else:
        yield from (root.expanduser() / name.replace(".", "___") for root in MODELSCOPE)


def _is_whole(folder: Path) -> bool:
    """With config, a tokenizer and every shard of safetensors; a download that was cut short has not all of them."""
    if not (folder / "config.json").is_file() or not any((folder / name).is_file() for name in TOKENIZERS):
        return False
    try:
        return all(shard.is_file() for shard in find_shards(folder))
    except (DanluError, OSError, ValueError, KeyError):  # no safetensors, or an index that is damaged
        return False
