"""Bases that lie on this machine already, in danlu's cache or in those of the hubs' own tools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from danlu.core.files import write_json
from danlu.model.nearby import find_nearby

IDS = {"huggingface": "Qwen/Qwen2.5-0.5B", "modelscope": "Qwen/Qwen2.5-0.5B"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".cache"


def write_base(folder: Path, *, shards: int = 1) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    names = [f"model-{number}.safetensors" for number in range(shards)]
    index = {"weight_map": {f"weight.{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in names:
        (folder / name).touch()
    return folder


def test_nothing_is_found_where_nothing_lies(home: Path) -> None:
    assert find_nearby(IDS) is None


def test_what_danlu_fetched_is_named_by_its_id(home: Path) -> None:
    folder = write_base(home / "danlu" / "models" / "modelscope" / "Qwen--Qwen2.5-0.5B" / "master")
    write_json(folder / ".danlu.json", {"has_weights": True, "files": []})
    found = find_nearby(IDS)
    assert found is not None and (found.base, found.hub, found.folder) == (IDS["modelscope"], "modelscope", folder)


@pytest.mark.parametrize(
    "place",
    [
        "huggingface/hub/models--Qwen--Qwen2.5-0.5B/snapshots/0123abcd",
        "modelscope/hub/models/Qwen/Qwen2___5-0___5B",
        "modelscope/hub/Qwen/Qwen2___5-0___5B",
    ],
)
def test_what_other_tools_fetched_is_named_by_its_folder(home: Path, place: str) -> None:
    folder = write_base(home / place, shards=2)
    found = find_nearby(IDS)
    assert found is not None and found.base == str(folder) == str(found.folder)
    (folder / "model-1.safetensors").unlink()
    assert find_nearby(IDS) is None, "a download that was cut short"


def test_a_pickle_is_no_base(home: Path) -> None:
    folder = home / "huggingface/hub/models--Qwen--Qwen2.5-0.5B/snapshots/0123abcd"
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "pytorch_model.bin"):
        (folder / name).write_text("{}")
    assert find_nearby(IDS) is None
