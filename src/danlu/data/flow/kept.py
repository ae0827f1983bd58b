"""Rows that stay with a run: so that a sample can be traced back, and found again, after everything else has moved on.

rows.json            the pieces in order: a shard of the store, or a file beside
shards.json          shards that a prepare counts on from its start until rows.json names them, also after a kill
rows/0003.jsonl      rows of a piece that lies in no store
verdicts.npz         per row of all pieces: its part, why it was left out, its twin
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from danlu.core.files import read_json, write_bytes, write_json, writing
from danlu.data.flow.codec import pack_content, pack_json, pack_marks, unpack, unpack_json, unpack_marks
from danlu.data.flow.piece import AnyPiece, Row
from danlu.data.flow.store import Store, StoredPiece
from danlu.data.ledger import Entry
from danlu.data.sample import Origin

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept of a run. `columns`: part, left_out, flagged, twin."""

    pieces: list[StoredPiece | KeptPiece]
    columns: dict[str, npt.NDArray[Any]]
    wanted: str

    def rows(self, is_meant: Callable[[str, str, int], bool] | None = None) -> Iterator[tuple[int, Row]]:
        """(number, row) of all rows, or of those whose (id, file, line) are meant: only they are opened."""
        first = 0
        for piece in self.pieces:
            wanted = None
            if is_meant is not None:
                wanted = np.fromiter((is_meant(*name) for name in piece.names()), bool, len(piece))
            if wanted is None or wanted.any():
                for number, row in piece.rows(wanted):
                    yield first + number, row
            first += len(piece)


@dataclass(frozen=True, slots=True)
class KeptPiece:
    """Rows in a file beside the run."""

    path: Path
    size: int

    def __len__(self) -> int:
        return self.size

    def rows(self, wanted: npt.NDArray[np.bool_] | None = None) -> Iterator[tuple[int, Row]]:
        for number, value in enumerate(_lines(self.path)):
            if wanted is None or wanted[number]:
                yield number, _row(value)

    def names(self) -> Iterator[tuple[str, str, int]]:
        return ((value["id"], value["origin"][0], value["origin"][1]) for value in _lines(self.path))

    @property
    def refused(self) -> list[Entry]:
        return [Entry(**value) for value in _lines(self.path.with_suffix(".refused.jsonl"))]


def keep(folder: Path, pieces: Sequence[AnyPiece], columns: dict[str, npt.NDArray[Any]], wanted: str) -> None:
    """Write what `open_kept` reads; rows.json last."""
    shutil.rmtree(folder / "rows", ignore_errors=True)
    listed: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces):
        if isinstance(piece, StoredPiece):
            listed.append({"shard": piece.folder.parent.name, "piece": piece.folder.name, "rows": len(piece)})
            continue
        name = f"rows/{number:04}.jsonl"
        with writing(folder / name) as file:
            for _, row in piece.rows():
                file.write(_line(row))
        with writing((folder / name).with_suffix(".refused.jsonl")) as file:
            file.writelines(orjson.dumps(entry, default=str) + b"\n" for entry in piece.refused)
        listed.append({"file": name, "rows": len(piece)})
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **columns)
    write_bytes(folder / "verdicts.npz", packed.getvalue())
    write_json(folder / "rows.json", {"format": FORMAT, "pieces": listed, "wanted": wanted})


def count_on(folder: Path, keys: Sequence[str]) -> None:
    """Say which shards `keep` is going to name, before they are made or looked for."""
    write_json(folder / "shards.json", sorted(keys))


def count_no_more(folder: Path) -> None:
    """After `keep`: what rows.json names is all that is counted on."""
    (folder / "shards.json").unlink(missing_ok=True)


def shards_of(folder: Path) -> set[str]:
    """Keys of the shards that a run counts on: it kept rows of them, or is being prepared, or was killed over it."""
    counted, rows = folder / "shards.json", folder / "rows.json"
    keys: set[str] = set()
    with contextlib.suppress(FileNotFoundError):  # this one first: when it goes, rows.json is there
        keys.update(read_json(counted))
    with contextlib.suppress(FileNotFoundError):
        keys.update(piece["shard"] for piece in read_json(rows)["pieces"] if "shard" in piece)
    return keys


def open_kept(folder: Path, store: Store) -> Kept | None:
    """What `keep` left; None where there is nothing, or where its shards have been removed."""
    if not (folder / "rows.json").is_file():
        return None
    listed = read_json(folder / "rows.json")
    pieces: list[StoredPiece | KeptPiece] = []
    for piece in listed["pieces"]:
        if "file" in piece:
            pieces.append(KeptPiece(folder / piece["file"], piece["rows"]))
            continue
        shard = store.find(piece["shard"])
        if shard is None:
            return None
        pieces.append(StoredPiece(shard.folder / piece["piece"], piece["rows"]))
    with np.load(folder / "verdicts.npz", allow_pickle=False) as columns:
        return Kept(pieces, dict(columns), listed["wanted"])


def rows_gone(folder: Path, store: Store) -> bool:
    """Whether rows were kept whose shards have been removed since: nobody can look through them."""
    path = folder / "rows.json"
    listed = read_json(path)["pieces"] if path.is_file() else []
    return any(store.find(key) is None for key in {piece["shard"] for piece in listed if "shard" in piece})


def _line(row: Row) -> bytes:
    content, _ = pack_content(row.sample) if row.sample else (b"", "")
    value = {"id": row.id, "origin": list(astuple(row.origin)), "seat": row.seat, "content": content.decode(),
             "marks": pack_marks(row.marks).decode()}  # fmt: skip
    if row.sample is not None and row.sample.group is not None:
        value["group"] = row.sample.group
    if row.sample is not None and row.sample.tags:
        value["tags"] = pack_json(row.sample.tags).decode()
    return orjson.dumps(value) + b"\n"


def _row(value: dict[str, Any]) -> Row:
    origin = Origin(*value["origin"])
    packed = value["content"].encode()
    tags = value.get("tags", {})
    tags = unpack_json(tags.encode()) if isinstance(tags, str) else tags  # runs of old hold an object
    sample = unpack(packed, origin, value.get("group"), tags) if packed else None
    return Row(sample, origin, value["id"], unpack_marks(value["marks"].encode()), value["seat"])


def _lines(path: Path) -> Iterator[Any]:
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)
