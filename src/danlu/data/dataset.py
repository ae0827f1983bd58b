"""Tokens on disk, memory-mapped: a folder that is whole or not there, and says so when somebody damaged it.

    card.json                what is in it
    format.json              version, width of ids, size and sha256 of every file, digest of all
    ledger.json              what happened to every input row (where given)
    <part>/ids.bin           ids of all sequences end to end, uint16 or int32, little-endian
    <part>/weights.bin       uint8, one per id
    <part>/bounds.bin        int64, num_sequences + 1: where each sequence begins in ids
    <part>/items.bin         int64, num_items + 1: where each item begins among the sequences
    <part>/rows.jsonl        per item: {"origin": "file:line", "digest": ..., "sample": "s_…"}, and where
                             answers are judged `asked`, the sample itself

One item is one document or conversation, or a preference pair (chosen, rejected). Order on disk is the order written;
the order of training comes from `pack.py`.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from danlu.core.errors import DataError
from danlu.core.files import read_json, replacing_folder, sha256_bytes, sha256_file, sha256_json, write_json
from danlu.core.messages import listed
from danlu.data.card import Card, describe_part
from danlu.data.ledger import Ledger
from danlu.data.tokens import Item, Tokens

FORMAT, VERSION = "danlu-dataset", 1


class Part:
    """`part[i]` is a list of Tokens: 1 for a document or conversation, 2 for a preference pair."""

    def __init__(self, folder: Path, width: str) -> None:
        self._folder = folder
        self._ids = _mapped(folder / "ids.bin", width)
        self._weights = _mapped(folder / "weights.bin", "|u1")
        self._bounds = _mapped(folder / "bounds.bin", "<i8")
        self._items = _mapped(folder / "items.bin", "<i8")

    def __len__(self) -> int:
        return len(self._items) - 1

    def __getitem__(self, index: int) -> list[Tokens]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        found = []
        for sequence in range(int(self._items[index]), int(self._items[index + 1])):
            start, end = int(self._bounds[sequence]), int(self._bounds[sequence + 1])
            found.append(Tokens(self._ids[start:end].astype(np.int32), np.array(self._weights[start:end])))
        return found

    @functools.cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens per item (of a pair, both together)."""
        begins: npt.NDArray[np.int64] = np.asarray(self._bounds)[np.asarray(self._items)].astype(np.int64)
        return np.diff(begins)

    @functools.cached_property
    def supervised(self) -> npt.NDArray[np.int64]:
        """Tokens per item that are learnt."""
        sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(self._weights), dtype=np.int64)])
        begins: npt.NDArray[np.int64] = sums[np.asarray(self._bounds)[np.asarray(self._items)]]
        return np.diff(begins)

    @property
    def num_tokens(self) -> int:
        return len(self._ids)

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Per item: `origin` (file:line), `digest` of its tokens, `sample` its id, `group` where it has one."""
        with (self._folder / "rows.jsonl").open("rb") as file:
            return [orjson.loads(line) for line in file]


class Dataset:
    """An opened dataset folder. Equal contents have equal `digest`."""

    def __init__(self, folder: Path, form: Mapping[str, Any]) -> None:
        self.folder, self.digest = folder, str(form["digest"])
        self.card = Card.from_json(read_json(folder / "card.json"))
        self._parts = {name: Part(folder / name, form["width"]) for name in form["parts"]}

    @property
    def names(self) -> list[str]:
        return list(self._parts)

    def part(self, name: str) -> Part:
        if name not in self._parts:
            raise DataError("dataset.no_part", where=str(self.folder), given=name, known=listed(self._parts) or "-")
        return self._parts[name]

    @functools.cached_property
    def ledger(self) -> dict[str, Any]:
        """The ledger's JSON, {} when none was written."""
        path = self.folder / "ledger.json"
        ledger: dict[str, Any] = read_json(path) if path.is_file() else {}
        return ledger

    @classmethod
    def write(
        cls,
        folder: Path,
        parts: Mapping[str, Iterable[Item | Sequence[Tokens]]],
        card: Card | None = None,
        *,
        ledger: Ledger | None = None,
    ) -> Dataset:
        """Write every part as its items come, in bounded memory; `folder` appears when all is written, or not at all.

        The ledger is saved last, so a lazy iterable that fills it while being encoded is accounted for.
        """
        card = card or Card()
        width = "<u2" if card.vocab_size is not None and card.vocab_size <= 65_536 else "<i4"
        described = {}
        with replacing_folder(folder) as fresh:
            for name, items in parts.items():
                described[name] = _write_part(fresh / name, items, width)
            filled = {**card.to_json(), "parts": described}
            write_json(fresh / "card.json", filled)
            if ledger is not None:
                write_json(fresh / "ledger.json", ledger.to_json())
            files = {
                path.relative_to(fresh).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
                for path in sorted(fresh.rglob("*"))
                if path.is_file()
            }
            content = {name: facts["sha256"] for name, facts in files.items() if "/" in name}
            form = {"format": FORMAT, "version": VERSION, "width": width, "parts": list(described), "files": files}
            write_json(fresh / "format.json", {**form, "digest": sha256_json({"width": width, "files": content})})
        return cls.open(folder, verify=False)

    @classmethod
    def open(cls, folder: Path, *, verify: bool = True) -> Dataset:
        """DataError when the folder is no dataset, of another version, or damaged (`verify`: digests too)."""
        folder = Path(folder)
        path = folder / "format.json"
        if not path.is_file():
            raise DataError("dataset.foreign", where=str(folder))
        try:
            form = read_json(path)
        except orjson.JSONDecodeError as error:
            raise DataError("dataset.damaged", where=str(path), problem=str(error)) from error
        if not isinstance(form, dict) or form.get("format") != FORMAT:
            raise DataError("dataset.foreign", where=str(folder))
        if form.get("version") != VERSION:
            raise DataError("dataset.version", where=str(folder), given=form.get("version"), expected=VERSION)
        for name, facts in form["files"].items():
            _check_file(folder / name, facts, verify=verify)
        return cls(folder, form)


def _check_file(path: Path, facts: Mapping[str, Any], *, verify: bool) -> None:
    if not path.is_file():
        raise DataError("dataset.damaged", where=str(path), problem="missing")
    if (size := path.stat().st_size) != facts["bytes"]:
        raise DataError("dataset.damaged", where=str(path), problem=f"{size} ≠ {facts['bytes']} bytes")
    if verify and (digest := sha256_file(path)) != facts["sha256"]:
        raise DataError("dataset.damaged", where=str(path), problem=f"sha256 {digest[:12]}… ≠ {facts['sha256'][:12]}…")


def _write_part(folder: Path, items: Iterable[Item | Sequence[Tokens]], width: str) -> dict[str, Any]:
    folder.mkdir()
    bounds, starts = array("q", [0]), array("q", [0])
    num_supervised = 0
    largest = np.iinfo(np.dtype(width)).max
    with (
        (folder / "ids.bin").open("wb") as ids_file,
        (folder / "weights.bin").open("wb") as weights_file,
        (folder / "rows.jsonl").open("wb") as rows_file,
    ):
        for item in items:
            sequences = item.tokens if isinstance(item, Item) else tuple(item)
            assert sequences and all(map(len, sequences)), "an item holds at least one token"
            content = b""
            for tokens in sequences:
                assert int(tokens.ids.min()) >= 0 and int(tokens.ids.max()) <= largest, "an id outside the vocabulary"
                ids, weights = tokens.ids.astype(width).tobytes(), tokens.weights.astype("|u1").tobytes()
                ids_file.write(ids)
                weights_file.write(weights)
                content += ids + weights
                bounds.append(bounds[-1] + len(tokens))
                num_supervised += tokens.num_supervised
            starts.append(starts[-1] + len(sequences))
            row: dict[str, Any] = {
                "origin": item.origin if isinstance(item, Item) else "", "digest": sha256_bytes(content)[:16]
            }  # fmt: skip
            if isinstance(item, Item) and item.sample:
                row["sample"] = item.sample
            if isinstance(item, Item) and item.group is not None:
                row["group"] = item.group
            if isinstance(item, Item) and item.asked is not None:
                row["asked"] = item.asked
            rows_file.write(orjson.dumps(row) + b"\n")
    bounds_array, starts_array = np.array(bounds, dtype="<i8"), np.array(starts, dtype="<i8")
    (folder / "bounds.bin").write_bytes(bounds_array.tobytes())
    (folder / "items.bin").write_bytes(starts_array.tobytes())
    lengths = np.diff(bounds_array[starts_array])
    return describe_part(lengths, num_sequences=len(bounds) - 1, num_supervised=num_supervised)


def _mapped(path: Path, width: str) -> npt.NDArray[Any]:
    """A file as an array without reading it; an empty file cannot be mapped."""
    if path.stat().st_size == 0:
        return np.zeros(0, dtype=width)
    return np.memmap(path, dtype=width, mode="r")
