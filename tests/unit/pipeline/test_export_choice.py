"""Which exports are written, and what of a run's artefacts counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import ExportError, RecipeError
from danlu.core.messages import say
from danlu.exports.usage import usage
from danlu.pipeline import export as pipeline
from danlu.recipe import Recipe
from danlu.run.artifact import Manifest
from danlu.run.run import Run
from progress_kit import Notes


def run_of(tmp_path: Path, **tree: Any) -> Run:
    return Run.create(Recipe.from_tree(tree), tmp_path)


def test_kind_means_the_recipe_s_own_export_of_that_kind(tmp_path: Path) -> None:
    """`--kind merged` wrote the base's dtype where the recipe says fp16."""
    run = run_of(tmp_path, exports=[{"kind": "merged", "dtype": "fp16"}, {"kind": "gguf", "quantize": "q4_k_m"}])
    assert [section.folder for section in pipeline._asked("merged", run)] == ["merged-fp16"]
    assert [section.folder for section in pipeline._asked("gguf:q4_k_m", run)] == ["gguf-q4_k_m"]
    assert [section.folder for section in pipeline._asked("gguf:bf16", run)] == ["gguf-bf16"]
    assert [section.folder for section in pipeline._asked("adapter", run)] == ["adapter"]


@pytest.mark.parametrize("word", ["ggufs", "GGUF", "gguf:q4", "adapter:fp8", "", "../merged"])
def test_a_typo_names_what_there_is(word: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        pipeline._asked(word, run_of(tmp_path))
    assert caught.value.where == "--kind"


def test_an_adapter_that_was_asked_for_and_is_not_there(tmp_path: Path) -> None:
    """It was left out without a word, and the command ended well."""
    run = run_of(tmp_path, adapter={"kind": "full"}, exports=["adapter"])
    with pytest.raises(ExportError) as caught:
        pipeline.export(run, kinds=["adapter"])
    assert caught.value.key == "export.no_adapter"


def test_an_adapter_that_is_left_out_is_told(tmp_path: Path) -> None:
    notes = Notes()
    run = run_of(tmp_path, adapter={"kind": "full"}, exports=["adapter"])
    assert pipeline.export(run, progress=notes) == []
    assert notes.said == [say("serving.no_adapter", given="adapter").split("\n")[0]]


def test_what_a_kill_left_behind_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.merged.old` has a manifest too, and a torn one ended every later export in a traceback."""
    monkeypatch.setattr(pipeline, "checkpoint_digest", lambda run: "c")
    run = run_of(tmp_path)
    for name, verdict in (("merged", "pass"), (".merged.old", "fail"), (".gguf.x1.tmp", "fail")):
        folder = run.path("artifacts", name)
        folder.mkdir(parents=True)
        Manifest("merged", "a", {}, {"checkpoint": "c"}, {}, (), {"verdict": verdict}, "now").write(folder)
    for name, content in (("gguf", '{"format": 1, '), ("vllm", "[]"), ("ollama", '{"format": 1}')):
        run.path("artifacts", name).mkdir()
        run.path("artifacts", name, "artifact.json").write_text(content)
    assert [manifest.parity["verdict"] for manifest in pipeline.artifacts_of(run)] == ["pass"]


@pytest.mark.parametrize(("name", "command"), [("专家", "my-model"), ("law 专家 2", "law-2"), ("expert", "expert")])
def test_ollama_takes_latin_names_only(name: str, command: str, tmp_path: Path) -> None:
    told = "\n".join(usage("ollama", tmp_path, "en", base="b", name=name))
    assert f"ollama create {command} -f Modelfile" in told


@pytest.mark.parametrize(("pack", "word"), [("legal", "lawyer"), ("medical", "physician"), ("minimal", None)])
def test_the_card_of_a_profession_s_model_says_what_its_answers_are_not(
    tmp_path: Path, pack: str, word: str | None
) -> None:
    run = run_of(tmp_path, data={"privacy": {"pack": pack}})
    limits = pipeline._card(run, {"rows": {}}).get("limits")
    assert (limits is None) == (word is None)
    if limits is not None and word is not None:
        assert word in limits["en"] and "人工智能" in limits["zh"]
