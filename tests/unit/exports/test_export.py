"""Exporting: what lies in the folder, what is refused, what is never half there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from danlu.core.errors import ExportError, RecipeError, TemplateError
from danlu.core.messages import load_room, set_language
from danlu.data.contract import Contract
from danlu.data.sample import Message
from danlu.engines.native import NativeEngine
from danlu.exports import EXPORTS
from danlu.exports import export as export_module
from danlu.exports.export import Facts, export
from danlu.exports.replay import replay
from danlu.exports.verify import verify
from danlu.model.build import load_model
from danlu.run.artifact import Manifest
from tiny_chat import QUESTIONS, tuned_engine, write_base

PROBES = [(Message("user", text),) for text in QUESTIONS[:2]]
CARD = {
    "data": {"样本 | rows": 1200, "tokens": {"train": 34567}}, "training": {"epochs": 3, "lr": 2e-4},
    "evaluation": {"base accuracy": 0.04, "tuned accuracy": 0.9123, "interval": [0.88, 0.94]},
    "licence": "apache-2.0", "limits": {"zh": "仅用于教学。", "en": "For teaching."},
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tuned(base: Path) -> tuple[NativeEngine, Contract]:
    return tuned_engine(base)


@pytest.fixture(autouse=True)
def no_others(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """transformers and PEFT speak in tests/numerics/test_parity.py; here they would only cost seconds."""
    if "others" not in request.fixturenames:
        monkeypatch.setattr("danlu.exports.proof.has", lambda package: False)


@pytest.fixture
def others() -> None: ...


def facts_of(engine: NativeEngine, **changes: object) -> Facts:
    base = {"name": "company/tiny", "revision": "abc123", "digest": engine.model.digest}
    return replace(Facts("掌柜 | demo", base, {"dataset": "d" * 64}, CARD), **changes)


def ship(
    kind: str, tuned: tuple[NativeEngine, Contract], folder: Path, *, is_replacing: bool = False, **changes: object
) -> Manifest:
    engine, contract = tuned
    facts = facts_of(engine, **changes)
    return export(
        EXPORTS.load(kind)(),
        engine,
        folder,
        contract=contract,
        facts=facts,
        probes=PROBES,
        max_new_tokens=8,
        replace=is_replacing,
    )


@pytest.fixture(scope="module")
def shipped(
    tuned: tuple[NativeEngine, Contract], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Path]]:
    """Both kinds with every check, transformers' and PEFT's too."""
    folders = {kind: tmp_path_factory.mktemp("shipped") / kind for kind in ("adapter", "merged")}
    for kind, folder in folders.items():
        ship(kind, tuned, folder)
    return folders


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_an_artefact_is_complete_and_its_proof_passes(kind: str, shipped: dict[str, Path], base: Path) -> None:
    folder = shipped[kind]
    manifest = verify(folder)
    assert manifest.parity["verdict"] == "pass" and manifest.kind == kind
    assert manifest.base == {"name": "company/tiny", "revision": "abc123", "digest": load_model(base).digest}
    assert set(manifest.parents) == {"dataset", "inputs"} and len(manifest.canaries) == 8
    weights = "adapter_model.safetensors" if kind == "adapter" else "model.safetensors"
    names = {path.name for path in folder.iterdir()}
    assert {weights, "README.md", "artifact.json", "generation_config.json", "tokenizer.json"} <= names
    assert set(manifest.files) == names - {"artifact.json"} and not [name for name in names if name.startswith(".")]
    settings = json.loads((folder / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [2, 0] and settings["temperature"] == 0.7 and settings["top_k"] == 20
    if kind == "adapter":
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "company/tiny" and config["revision"] == "abc123"


def test_the_card_is_bilingual_and_holds_what_was_handed_in(shipped: dict[str, Path]) -> None:
    text = (shipped["merged"] / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\n") and "base_model: company/tiny" in text and "license: apache-2.0" in text
    for part in (
        "34567",
        "0.9123",
        "0.88, 0.94",
        "仅用于教学。",
        "For teaching.",
        "一致性**通过**",
        "Parity **passed**",
        "样本 \\| rows",
    ):
        assert part in text, part
    assert (
        text.index("训练数据") < text.index("Training data")
        and "/work" not in text
        and str(shipped["merged"]) not in text
    )
    assert "peft" in (shipped["adapter"] / "README.md").read_text(encoding="utf-8").split("---")[1]


def test_a_changed_byte_is_named(shipped: dict[str, Path], tmp_path: Path) -> None:
    for number, name in enumerate(("model.safetensors", "README.md", "tokenizer.json")):
        folder = tmp_path / str(number)
        shutil.copytree(shipped["merged"], folder)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(ExportError) as caught:
            verify(folder)
        assert caught.value.key == "run.tampered" and name in caught.value.text and caught.value.fix


@pytest.mark.parametrize("change", ["added", "lost", "listed", "garbled", "not a manifest"])
def test_added_lost_and_edited_files_are_refused(change: str, shipped: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(shipped["adapter"], folder)
    manifest = folder / "artifact.json"
    if change == "added":
        (folder / "model.bin").write_bytes(b"\x80\x04")
    elif change == "lost":
        (folder / "adapter_config.json").unlink()
    elif change == "listed":  # a file changed together with its line in the manifest
        (folder / "README.md").write_text("hello")
        tree = json.loads(manifest.read_text())
        tree["files"]["README.md"] = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        manifest.write_text(json.dumps(tree))
    else:
        manifest.write_text('{"format": 1, "kind"' if change == "garbled" else '{"format": 1, "digest": ""}')
    with pytest.raises(ExportError) as caught:
        verify(folder)
    assert caught.value.key in ("run.tampered", "run.bad_manifest")


def test_canaries_sing_on_the_reloaded_model_and_fall_silent_on_another(
    shipped: dict[str, Path], tuned: tuple[NativeEngine, Contract], base: Path
) -> None:
    encoder = tuned[0].encoder
    manifest = verify(shipped["merged"])
    for dtype in ("fp32", "bf16"):
        replay(manifest, NativeEngine(load_model(shipped["merged"], dtype=dtype), encoder, name="merged"))
    replay(manifest, tuned[0])
    for other in (base, write_base(shipped["merged"].parent / "stranger", seed=8)):
        with pytest.raises(ExportError) as caught:
            replay(manifest, NativeEngine(load_model(other, dtype="fp32"), encoder, name="another"))
        assert caught.value.key in ("export.canary", "export.canary_drift") and "another" in caught.value.text


def test_another_base_is_refused(tuned: tuple[NativeEngine, Contract], tmp_path: Path) -> None:
    """Pain 2: merging into a base that only has the same name and shape."""
    engine, _ = tuned
    with pytest.raises(ExportError) as caught:
        ship("merged", tuned, tmp_path / "a", base={"name": "tiny", "revision": None, "digest": "0" * 64})
    assert caught.value.key == "export.other_base" and not (tmp_path / "a").exists()
    other = write_base(tmp_path / "other", seed=9)
    folder, engine.model.folder = engine.model.folder, other  # the files changed under the run's feet
    try:
        with pytest.raises(ExportError) as caught:
            ship("merged", tuned, tmp_path / "b")
    finally:
        engine.model.folder = folder
    assert caught.value.key == "export.other_base" and list(tmp_path.glob("*b*")) == []


def test_a_different_artefact_is_not_overwritten_silently(
    tuned: tuple[NativeEngine, Contract], tmp_path: Path, others: None
) -> None:
    folder = tmp_path / "artifact"
    first = ship("adapter", tuned, folder)
    stamp = (folder / "artifact.json").stat().st_mtime_ns
    again = ship("adapter", tuned, folder)
    assert again.digest == first.digest and (folder / "artifact.json").stat().st_mtime_ns == stamp, "the same is kept"
    with pytest.raises(ExportError) as caught:
        ship("adapter", tuned, folder, parents={"dataset": "e" * 64})
    assert caught.value.key == "export.other_artifact" and first.digest[:16] in caught.value.text
    assert (
        ship("adapter", tuned, folder, is_replacing=True, parents={"dataset": "e" * 64}).parents["dataset"] == "e" * 64
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for is_replacing in (False, True):
        with pytest.raises(ExportError) as caught:
            ship("adapter", tuned, tmp_path / "mine", is_replacing=is_replacing)
        assert caught.value.key == "export.foreign_folder" and (tmp_path / "mine" / "thesis.txt").exists()


def test_a_crash_on_the_way_leaves_nothing(
    tuned: tuple[NativeEngine, Contract], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "write_card", stop)
    with pytest.raises(KeyboardInterrupt):
        ship("adapter", tuned, tmp_path / "artifact")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_proof_is_kept_and_refused(shipped: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(shipped["merged"], folder)
    tree = json.loads((folder / "artifact.json").read_text())
    tree["parity"] = {"verdict": "fail", "checks": [{"name": "weights", "verdict": "fail"}]}
    (folder / "artifact.json").write_text(json.dumps(tree))
    with pytest.raises(ExportError) as caught:
        verify(folder)
    assert caught.value.key == "export.parity_failed" and "weights" in caught.value.text
    assert verify(folder, allow_unproven=True).kind == "merged"


@pytest.mark.parametrize("verdict", ["pass", "sure"])
def test_a_verdict_that_its_checks_do_not_give_is_refused(
    verdict: str, shipped: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(shipped["merged"], folder)
    tree = json.loads((folder / "artifact.json").read_text())
    tree["parity"]["verdict"], tree["parity"]["checks"][0]["verdict"] = verdict, "fail"
    (folder / "artifact.json").write_text(json.dumps(tree))
    with pytest.raises(ExportError) as caught:
        verify(folder, allow_unproven=True)
    assert caught.value.key == "export.bad_manifest"


def test_an_edited_contract_is_refused(shipped: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(shipped["merged"], folder)
    tree = json.loads((folder / "artifact.json").read_text())
    tree["contract"]["system"] = "Obey."
    (folder / "artifact.json").write_text(json.dumps(tree))
    with pytest.raises(TemplateError):
        verify(folder)


def test_no_room_on_the_disk_is_said_before_writing(
    tuned: tuple[NativeEngine, Contract], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "free_bytes", lambda path: 1000)
    with pytest.raises(ExportError) as caught:
        ship("merged", tuned, tmp_path / "artifact")
    assert caught.value.key == "export.no_space" and list(tmp_path.iterdir()) == []


def test_what_has_no_adapter_has_none_to_ship(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        ship("adapter", tuned_engine(base, kind="full"), tmp_path / "artifact")
    assert caught.value.key == "export.no_adapter" and "merged" in caught.value.fix
    with pytest.raises(RecipeError):
        EXPORTS.load("mergd")


def test_a_template_of_the_recipe_s_travels_and_a_system_prompt_is_told(tmp_path: Path) -> None:
    """Pains 5 and 6: the exported folder speaks as the run did, not as the base's files do."""
    base = write_base(tmp_path / "base", seed=4)
    config = json.loads((base / "tokenizer_config.json").read_text())
    own = config.pop("chat_template")
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))
    changed = own.replace("assistant\n' }}{% endif", "assistant\n\n' }}{% endif")
    tuned = tuned_engine(base, template=changed, system="你是掌柜。")
    manifest = ship("merged", tuned, tmp_path / "merged")
    assert [c for c in manifest.parity["checks"] if c["verdict"] == "fail"] == []
    assert (tmp_path / "merged" / "chat_template.jinja").read_text(encoding="utf-8") == changed
    assert json.loads((tmp_path / "merged" / "generation_config.json").read_text())["eos_token_id"] == [2, 0]
    assert "> 你是掌柜。" in (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    verify(tmp_path / "merged")


def test_every_check_has_a_name_in_both_languages(shipped: dict[str, Path]) -> None:
    names = {check["name"] for folder in shipped.values() for check in Manifest.read(folder).parity["checks"]}
    assert len(names) >= 13
    for language in ("en", "zh"):
        set_language(language)
        assert {f"check_{name}" for name in names} <= set(load_room("export", language))


def test_exporting_does_not_touch_the_run(tuned: tuple[NativeEngine, Contract], tmp_path: Path) -> None:
    before = {name: weight.detach().clone() for name, weight in tuned[0].model.named_parameters()}
    ship("merged", tuned, tmp_path / "merged")
    assert all(torch.equal(before[name], weight) for name, weight in tuned[0].model.named_parameters())
