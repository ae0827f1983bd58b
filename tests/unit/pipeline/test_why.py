"""why over many samples of one source: what is costly is done once."""

import json
from pathlib import Path

import numpy as np
import pytest

from danlu.core.errors import RunError
from danlu.core.files import sha256_file, write_json
from danlu.data.flow.kept import keep
from danlu.data.flow.passing import Passing, ShardFacts, pass_samples
from danlu.data.sample import Document, Origin
from danlu.pipeline import why as room
from danlu.pipeline.why import why
from danlu.recipe import Recipe
from danlu.run.run import Run


def test_a_source_is_digested_once_for_all_its_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source of many gigabytes was read anew for each of up to twenty samples."""
    source = tmp_path / "handbook.txt"
    source.write_text("第一段\n第二段\n第三段\n", "utf-8")
    tree = {"name": "t", "model": {"base": "ember"}, "data": {"sources": []}, "method": {"kind": "sft"}}
    run = Run.create(Recipe.from_tree(tree, file="recipe.yaml"), tmp_path / "runs")
    samples = [Document(f"条款：第{n}段", Origin(str(source), n)) for n in range(1, 6)]
    pieces = list(pass_samples(samples, Passing(), ShardFacts()))
    columns = {name: np.zeros(5, np.int64) for name in ("part", "left_out", "flagged", "twin")}
    keep(run.path("dataset"), pieces, columns, "")
    inputs = [{"file": str(source), "sha256": sha256_file(source)}]
    write_json(run.path("dataset", "manifest.json"), {"parts": {"inputs": inputs}})
    run.finish("prepare", "i", {"stages": []})
    digested: list[Path] = []

    def counted(path: Path) -> str:
        digested.append(path)
        return sha256_file(path)

    monkeypatch.setattr(room, "sha256_file", counted)
    monkeypatch.setattr(room, "changed_manifests", lambda run: [], raising=False)
    told = why("条款", tmp_path / "runs").to_json()
    assert [sample["origin"]["state"] for sample in told["samples"]] == ["same"] * 5 and json.dumps(told)
    assert digested == [source]


@pytest.mark.parametrize("nothing", ["", " ", "\n"])
def test_nothing_is_no_fragment_of_every_row(tmp_path: Path, nothing: str) -> None:
    """An empty text fitted every row of every run."""
    with pytest.raises(RunError) as caught:
        why(nothing, tmp_path)
    assert caught.value.key == "flow.nothing_asked" and caught.value.fix
