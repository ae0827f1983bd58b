"""Dataset: what was written is read back, half-written never appears, damage is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import DataError
from danlu.core.files import read_json, write_json
from danlu.data.card import Card
from danlu.data.dataset import Dataset
from danlu.data.ledger import Ledger
from danlu.data.tokens import Item, Tokens


def tokens(*ids: int, learnt: int = 1) -> Tokens:
    weights = np.zeros(len(ids), np.uint8)
    weights[-learnt:] = 1
    return Tokens(np.array(ids, np.int32), weights)


ITEMS = [Item((tokens(1, 2, 3),), "a.jsonl:1", "g"), Item((tokens(4, 5), tokens(4, 6, 7)), "b.jsonl:2")]


@given(st.lists(st.lists(st.lists(st.integers(0, 65_535), min_size=1, max_size=9), min_size=1, max_size=2), max_size=9))
@settings(max_examples=30)
def test_what_was_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[list[int]]]) -> None:
    folder = tmp_path_factory.mktemp("d") / "dataset"
    items = [[tokens(*ids) for ids in row] for row in rows]
    part = Dataset.write(folder, {"train": items}, Card(vocab_size=65_536)).part("train")
    assert len(part) == len(rows)
    for index, row in enumerate(rows):
        assert [found.ids.tolist() for found in part[index]] == row
        assert [found.weights.tolist() for found in part[index]] == [item.weights.tolist() for item in items[index]]
    assert part.lengths.tolist() == [sum(map(len, row)) for row in rows] and part.lengths.dtype == np.int64


def test_width_follows_the_vocabulary(tmp_path: Path) -> None:
    small = Dataset.write(tmp_path / "s", {"train": ITEMS}, Card(vocab_size=65_536))
    large = Dataset.write(tmp_path / "l", {"train": [[tokens(70_000)]]}, Card(vocab_size=151_936))
    assert (small.folder / "train/ids.bin").stat().st_size == 2 * 8
    assert large.part("train")[0][0].ids.tolist() == [70_000] and large.part("train")[0][0].ids.dtype == np.int32
    with pytest.raises(AssertionError, match="vocabulary"):
        Dataset.write(tmp_path / "x", {"train": [[tokens(70_000)]]}, Card(vocab_size=1000))
    assert not (tmp_path / "x").exists()


def test_card_ledger_and_rows(tmp_path: Path) -> None:
    ledger = Ledger()

    def stream() -> Iterator[Item]:
        for item in ITEMS:
            ledger.use()
            yield item

    card = Card(name="rules", vocab_size=100, licence="CC0", sources=({"path": "a.jsonl", "digest": "ab", "rows": 2},))
    dataset = Dataset.write(tmp_path / "d", {"train": stream(), "validation": []}, card, ledger=ledger)
    assert dataset.ledger["rows"]["used"] == 2 and dataset.card.licence == "CC0"
    train = dataset.card.parts["train"]
    assert (train["items"], train["sequences"], train["tokens"], train["supervised_tokens"]) == (2, 3, 8, 3)
    assert train["lengths"]["max"] == 5 and dataset.card.parts["validation"]["items"] == 0
    assert [row["origin"] for row in dataset.part("train").rows] == ["a.jsonl:1", "b.jsonl:2"]
    assert dataset.names == ["train", "validation"]
    with pytest.raises(DataError, match="train, validation"):
        dataset.part("test")
    with pytest.raises(IndexError):
        dataset.part("train")[2]


def test_digest_is_of_the_tokens(tmp_path: Path) -> None:
    one = Dataset.write(tmp_path / "a", {"train": ITEMS}, Card(name="x"))
    same = Dataset.write(tmp_path / "b", {"train": ITEMS}, Card(name="y"))
    other = Dataset.write(tmp_path / "c", {"train": ITEMS[:1]}, Card(name="x"))
    assert one.digest == same.digest != other.digest
    assert Dataset.open(tmp_path / "a").digest == one.digest


def test_a_broken_stream_leaves_the_old_dataset(tmp_path: Path) -> None:
    old = Dataset.write(tmp_path / "d", {"train": ITEMS})

    def broken() -> Iterator[Item]:
        yield ITEMS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Dataset.write(tmp_path / "d", {"train": broken()})
    assert Dataset.open(tmp_path / "d").digest == old.digest
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_damage_is_named(tmp_path: Path) -> None:
    folder = Dataset.write(tmp_path / "d", {"train": ITEMS}).folder
    ids = folder / "train/ids.bin"
    content = ids.read_bytes()
    ids.write_bytes(content[:-4])
    with pytest.raises(DataError, match=r"ids\.bin.*bytes"):
        Dataset.open(folder, verify=False)
    ids.write_bytes(b"\x09" + content[1:])
    with pytest.raises(DataError, match=r"ids\.bin.*sha256"):
        Dataset.open(folder)
    ids.unlink()
    with pytest.raises(DataError, match="missing"):
        Dataset.open(folder)


def test_foreign_folders_and_versions_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a danlu dataset"):
        Dataset.open(tmp_path)
    folder = Dataset.write(tmp_path / "d", {"train": ITEMS}).folder
    form = read_json(folder / "format.json")
    write_json(folder / "format.json", {**form, "version": 2})
    with pytest.raises(DataError, match="format 2, expected 1"):
        Dataset.open(folder)
    (folder / "format.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        Dataset.open(folder)
