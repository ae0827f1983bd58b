"""`danlu bundle`: what goes in, what is refused, and that nothing in it can be changed unseen."""

import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from danlu.cli.serving_words import ServingWords
from danlu.core.errors import ExportError
from danlu.pipeline.bundle import Wanted, bundle, check
from danlu.recipe.recipe import Recipe
from danlu.recipe.serving import ServingSection
from danlu.run.artifact import Manifest
from danlu.run.run import Run

sys.path.append(str(Path(__file__).parents[1] / "serving"))
from lens_kit import make_adapter, make_base, make_merged


@pytest.fixture
def base(tmp_path) -> Path:
    (tmp_path / "tiny").mkdir()
    return make_base(tmp_path / "tiny")


@pytest.fixture
def adapter(tmp_path, base) -> Path:
    """Trained on a base of this machine's disk."""
    folder = make_adapter(tmp_path / "runs/law/artifacts/adapter", base)
    manifest = Manifest.read(folder)
    dataclasses.replace(manifest, base=manifest.base | {"name": str(base)}).write(folder)
    return folder


def wheel(folder: Path, name: str = "danlu", needs: str = "", **files: str) -> Path:
    path = folder / f"{name}-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        told = f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n"
        told += "Classifier: License :: OSI Approved :: MIT License\n" + (f"Requires-Dist: {needs}\n" if needs else "")
        archive.writestr(f"{name}-0.1.0.dist-info/METADATA", told)
        tag = "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{name}-0.1.0.dist-info/WHEEL", tag)
        archive.writestr(f"{name}-0.1.0.dist-info/RECORD", "")
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def test_a_torn_manifest_makes_no_bundle(tmp_path, adapter):
    """It was read for its name before anybody looked whether it can be."""
    (adapter / "artifact.json").write_bytes((adapter / "artifact.json").read_bytes()[:200])
    argv = [sys.executable, "-m", "danlu", "bundle", str(adapter), "--out", str(tmp_path / "out"), "--files-only"]
    ended = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
    assert "artifact.json" in ended.stderr and not (tmp_path / "out").exists()


def run_with(adapter: Path, runs: Path, name: str = "law") -> Path:
    """A run whose artefact this is."""
    run = Run.create(Recipe.from_tree({"name": name, "serving": {"port": 8443}}), runs)
    shutil.copytree(adapter, run.path("artifacts") / "adapter")
    return run.folder


def bundled(*words: str | Path, home: Path, runs: Path) -> dict[str, Any]:
    argv = [sys.executable, "-m", "danlu", "bundle", *map(str, words), "--out", str(home / "out"), "--files-only"]
    ended = subprocess.run([*argv, "--json", "--runs", str(runs)], capture_output=True, text=True, cwd=home)
    return json.loads(ended.stdout)


def test_a_bundle_takes_what_serve_takes(tmp_path, adapter):
    """`danlu serve runs/law` was right, and `danlu bundle runs/law` an error."""
    runs = tmp_path / "home"
    run = run_with(adapter, runs)
    (tmp_path / "law.yaml").write_text("name: law\nserving: {port: 8443}\n")
    (tmp_path / "serving.yaml").write_text(json.dumps({"serving": {"models": {"expert": str(run)}}}))
    for words in ((run,), (run.name,), ("law",), ("law.yaml",), ("--config", "serving.yaml"), (f"expert={run}",)):
        asked = ServingWords.of([str(word) for word in words if word != "--config"], None)
        if "--config" in words:
            asked = ServingWords.of((), tmp_path / "serving.yaml")
        with contextlib.chdir(tmp_path):
            served, section = asked.read(runs)
        made = bundled(*words, home=tmp_path, runs=runs)
        assert [model["name"] for model in made["models"]] == [each.name for each in served], made
        assert served[0].folder == run / "artifacts" / "adapter"
        told = "".join(path.read_text() for path in (tmp_path / "out").rglob("*.yaml"))
        assert (str(section.port) in told) and (section.port == 8443) == (words[0] in (run, "law.yaml"))
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("nothing-here",), "cli.no_target"), (("empty",), "serve.no_artifact"), ((), "bundle.nothing"),
        (("law", "law"), "serve.same_name"), (("big=http://127.0.0.1:1/v1",), "bundle.urls"),
        (("new.yaml",), "serve.not_run_yet"),
    ],
)  # fmt: skip
def test_what_cannot_be_bundled_is_refused_in_the_same_words(words, error, tmp_path, adapter):
    run_with(adapter, tmp_path / "runs")
    Run.create(Recipe.from_tree({"name": "empty"}), tmp_path / "runs")
    (tmp_path / "new.yaml").write_text("name: new\n")
    assert bundled(*words, home=tmp_path, runs=tmp_path / "runs")["error"] == error
    assert not (tmp_path / "out").exists()


def wanted(*targets: tuple[str, Path], **rest) -> Wanted:
    return Wanted(targets, ServingSection(), has_wheels=False, **rest)


def test_an_adapter_brings_its_base(adapter, base, tmp_path):
    other = make_adapter(tmp_path / "other", base, name="care", seed=1)
    manifest = Manifest.read(other)
    dataclasses.replace(manifest, base=manifest.base | {"name": str(base)}).write(other)
    made = bundle(tmp_path / "out", wanted(("law", adapter), ("care", other)))
    assert {model["base"] for model in made.models} == {"bases/tiny"}, "once for both"
    assert (tmp_path / "out/models/bases/tiny/model.safetensors").read_bytes() == (
        base / "model.safetensors"
    ).read_bytes()
    Manifest.read(tmp_path / "out/models/law").check_files(tmp_path / "out/models/law")
    assert check(tmp_path / "out") == made.num_files + 1  # and bundle.json


def test_a_base_that_changed_is_refused(adapter, base, tmp_path):
    (base / "config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": 33}))
    with pytest.raises(ExportError, match="not the base"):
        bundle(tmp_path / "out", wanted(("law", adapter)))
    assert not (tmp_path / "out").exists(), "whole or not at all"


def test_a_spoilt_artefact_is_refused(base, tmp_path):
    folder = make_merged(tmp_path / "whole", base)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ExportError, match=r"config\.json"):
        bundle(tmp_path / "out", wanted(("whole", folder)))


@pytest.mark.parametrize(("harm", "said"), [("change", "not the file"), ("remove", "missing"), ("add", "was not in")])
def test_what_is_touched_afterwards_is_found(harm, said, base, tmp_path):
    out = tmp_path / "out"
    bundle(out, wanted(("whole", make_merged(tmp_path / "whole", base))))
    victim = out / "deploy/compose.yaml"
    if harm == "change":
        victim.write_text(victim.read_text().replace("127.0.0.1:", "0.0.0.0:"))
    elif harm == "remove":
        victim.unlink()
    else:
        (out / "wheels").mkdir()
        wheel(out / "wheels", "helpful")
    with pytest.raises(ExportError, match=said):
        check(out)


def test_install_checks_every_file_first(base, tmp_path):
    out = tmp_path / "out"
    bundle(out, wanted(("whole", make_merged(tmp_path / "whole", base))))
    (out / "models/whole/model.safetensors").write_bytes(b"other")
    done = subprocess.run(["sh", out / "install.sh", tmp_path / "there"], capture_output=True, text=True)
    assert done.returncode != 0 and "model.safetensors" in done.stdout + done.stderr
    assert not (tmp_path / "there").exists(), "nothing was installed"


def test_incident_06_a_wheel_that_runs_code_at_every_start_is_refused(base, tmp_path):
    """Backdoored releases of a popular gateway brought a .pth file that stole credentials."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel(shelf)
    wheel(shelf, "helpful", **{"helpful_init.pth": "import os; os.system('true')"})
    with pytest.raises(ExportError, match=r"helpful_init\.pth"):
        asked = Wanted((("whole", make_merged(tmp_path / "whole", base)),), ServingSection(), wheels=shelf)
        bundle(tmp_path / "out", asked)


def test_wheels_are_told_with_licence_and_digest(base, tmp_path):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel(shelf)
    asked = Wanted((("whole", make_merged(tmp_path / "whole", base)),), ServingSection(), wheels=shelf)
    bundle(tmp_path / "out", asked)
    (told,) = json.loads((tmp_path / "out/bundle.json").read_text())["wheels"]
    assert (told["name"], told["version"], told["licence"]) == ("danlu", "0.1.0", "MIT License")


def test_a_wheel_that_is_missing_is_missed_before_the_bundle_travels(base, tmp_path):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel(shelf, needs="surely-nowhere>=1")
    asked = Wanted((("whole", make_merged(tmp_path / "whole", base)),), ServingSection(), wheels=shelf)
    with pytest.raises(ExportError, match="surely-nowhere"):
        bundle(tmp_path / "out", asked)
    assert not (tmp_path / "out").exists()


def test_wheels_without_danlu_are_no_bundle(base, tmp_path):
    (tmp_path / "shelf").mkdir()
    asked = Wanted((("whole", make_merged(tmp_path / "whole", base)),), ServingSection(), wheels=tmp_path / "shelf")
    with pytest.raises(ExportError, match="no wheel of danlu"):
        bundle(tmp_path / "out", asked)


def test_what_is_served_is_read_where_it_is_installed(base, tmp_path):
    """install.sh puts the folder into the configuration: names with letters of any script, places with spaces."""
    out, there = tmp_path / "out", tmp_path / "内网 机器"
    section = ServingSection(models={"客服": str(make_merged(tmp_path / "whole", base))}, port=8443)
    bundle(out, Wanted((("客服", tmp_path / "whole"),), section, has_wheels=False))
    text = (out / "deploy/serving.machine.yaml").read_text(encoding="utf-8").replace("@PREFIX@", str(there))
    (tmp_path / "serving.yaml").write_text(text, encoding="utf-8")
    read = Recipe.load(tmp_path / "serving.yaml").serving
    assert [(served.name, served.target) for served in read.models] == [("客服", f"{there}/models/客服")]
    assert read.port == 8443


def test_an_existing_folder_stays(base, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match="already"):
        bundle(tmp_path / "out", wanted(("whole", make_merged(tmp_path / "whole", base))))


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc/x", "a/b", "bases", "", "a\nb"])
def test_incident_13_a_name_out_of_an_artefact_leads_nowhere(name, base, tmp_path):
    with pytest.raises(ExportError, match="cannot be a model's name"):
        bundle(tmp_path / "in" / "out", wanted((name, make_merged(tmp_path / "whole", base))))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "in") == ["tiny", "whole"]


def test_vllm_is_given_one_base(adapter, base, tmp_path):
    other = make_merged(tmp_path / "whole", base)
    asked = Wanted((("law", adapter), ("whole", other)), ServingSection(engine="vllm"), has_wheels=False)
    with pytest.raises(ExportError, match="one base for vLLM"):
        bundle(tmp_path / "out", asked)
