"""From a folder of reviews to a classifier: a small encoder with random weights learns two classes, is measured against the
most frequent one, exported, read by transformers, chatted with; what an encoder cannot do is refused in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file

import danlu as package
from danlu.data.contract import Contract
from danlu.data.sample import Message
from danlu.engines.engine import Question, Sampling
from danlu.exports.export import Facts, Subject, export
from danlu.exports.hf import MergedExport
from danlu.run.run import Run
from encoder_kit import reviews, with_weights, write_bert, write_reviews
from journeys.command_line import danlu

ROWS = reviews(400)


def recipe(folder: Path, base: Path, **changes: Any) -> Path:
    tree = {
        "name": "reviews",
        "model": {"base": str(base), "init": "random"},
        "data": {
            "sources": str(folder / "reviews.csv"),
            "split": {"test": 0.2, "validation": 0.1},
            "over_length": "drop",
        },
        "method": "classify",
        "training": {"context": 64, "batch_tokens": 512, "epochs": 8, "lr": 3e-3},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree | changes, allow_unicode=True))
    return path


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base, reviews, recipe and a finished run. Nobody may change it."""
    home = tmp_path_factory.mktemp("encoder")
    write_reviews(home / "reviews.csv", ROWS)
    base = write_bert(home / "base", [text for text, _ in ROWS])
    said = danlu("run", recipe(home, base), "--runs", home / "runs", "--json")
    assert said.code == 0, said.err
    return home


def run_of(story: Path) -> Path:
    (found,) = (story / "runs").glob("reviews-*")
    return found


def test_it_learns_and_is_measured_against_the_most_frequent_class(story: Path) -> None:
    report = json.loads((run_of(story) / "report.json").read_text())
    contract = json.loads((run_of(story) / "contract.json").read_text())
    frequent = max(contract["classes"], key=contract["classes"].get)
    confusion = report["classes"]["base"]["confusion"]
    assert {named for told in confusion.values() for named in told} == {frequent}  # nothing but the most frequent one
    assert report["tuned"]["accuracy"] > 0.9 and report["gate"]["decision"] == "ship"
    assert {"macro_f1", "mcc"} <= set(report["metrics"])
    assert report["metrics"]["macro_f1"]["tuned"] > 0.9


def test_the_export_is_a_classifier_of_transformers(story: Path) -> None:
    """The very answers of the engine, by name, from a folder that needs nothing beside it."""
    folder = run_of(story) / "artifacts" / "merged"
    manifest = json.loads((folder / "artifact.json").read_text())
    assert manifest["parity"]["verdict"] == "pass"
    told = {check["name"] for check in manifest["parity"]["checks"]}
    assert {"transformers_prompts", "transformers_classes", "transformers_logits", "transformers_questions"} <= told
    engine = package.open_artifact(folder)
    pipe = transformers.pipeline("text-classification", model=str(folder), top_k=None, dtype=torch.float32)
    texts = [text for text, _ in reviews(30, seed=9)]
    answers = engine.generate([Question((Message("user", text),)) for text in texts], Sampling())
    for text, answer, theirs in zip(texts, answers, pipe(texts), strict=True):
        assert answer.text == theirs[0]["label"]
        ours = engine.probabilities(Question((Message("user", text),)))
        assert ours == pytest.approx({each["label"]: each["score"] for each in theirs}, abs=1e-5)
    assert "pipeline_tag: text-classification" in (folder / "README.md").read_text()


@pytest.mark.parametrize("harm", ["names", "weights", "tokenizer"])
def test_a_changed_folder_is_not_opened(story: Path, tmp_path: Path, harm: str) -> None:
    folder = Path(shutil.copytree(run_of(story) / "artifacts" / "merged", tmp_path / "merged"))
    if harm == "weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-4] + b"\0\0\0\1")
    else:
        name = "config.json" if harm == "names" else "tokenizer.json"
        (folder / name).write_text((folder / name).read_text().replace("好", "坏", 1))
    said = danlu("chat", folder, input="好吃\n")
    assert said.code != 0 and name_of(harm) in said.err


def name_of(harm: str) -> str:
    return {"names": "config.json", "weights": "model.safetensors", "tokenizer": "tokenizer.json"}[harm]


def test_chat_tells_class_and_probability(story: Path) -> None:
    said = danlu("chat", run_of(story), "--json", input="店家热情，饭也好吃\n又洒了，难吃\n" + "汤" * 200 + "\n")
    good, bad, long = map(json.loads, said.out.strip().splitlines())
    assert (good["answer"], bad["answer"]) == ("好评", "差评")
    assert good["probabilities"]["好评"] > 0.8 and sum(good["probabilities"].values()) == pytest.approx(1)
    assert "64" in long["message"] and "truncate-prompt" in long["fix"]


def test_a_run_that_is_done_is_not_done_again(story: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in run_of(story).rglob("*.safetensors"))
    assert danlu("run", story / "recipe.yaml", "--runs", story / "runs", "--json").code == 0
    assert sorted((path, path.stat().st_mtime_ns) for path in run_of(story).rglob("*.safetensors")) == before


def test_a_plan_speaks_of_what_an_encoder_can_do(story: Path) -> None:
    """On a card: no low-rank ways, no contexts beyond its reach."""
    said = danlu("plan", story / "recipe.yaml", "--card", "T4")
    assert said.code == 0 and "LoRA" not in said.out and "128" in said.out
    cells = danlu("plan", story / "recipe.yaml", "--card", "T4", "--json").json["what_if"]
    assert cells and {(cell["context"], cell["way"][:4]) for cell in cells} == {(128, "full")}


def test_a_server_says_why_it_does_not_serve_it(story: Path) -> None:
    said = danlu("serve", run_of(story), "--runs", story / "runs")
    assert said.code != 0 and "conversations" in said.err and "danlu chat" in said.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("compare",), "danlu compare A B"),
        (("export", "--kind", "gguf"), "merged"),
        (("prune",), "decoders"),
        (("bundle", "-o", "packed"), "conversations"),
    ],
    ids=["compare", "export", "prune", "bundle"],
)
def test_verbs_of_decoders_are_refused_in_words(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    verb, *others = words
    if verb == "prune":
        said = danlu("prune", story / "base", "--layers", 1, "--data", story / "reviews.csv", "-o", story / "small")
    else:
        said = danlu(verb, run_of(story), "--runs", story / "runs", *others)
    assert said.code == 2 and told in said.err and not (tmp_path / "packed").exists()


def test_a_run_without_artefacts_gets_no_version(story: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_of(story), tmp_path / "runs" / run_of(story).name))
    shutil.rmtree(run / "artifacts")
    said = danlu("registry", "add", run, "--runs", tmp_path / "runs")
    assert said.code == 2 and "danlu export" in said.err


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"method": "sft"}, "method.kind", "encoder"),
    ({"method": "pretrain"}, "method.kind", "encoder"),
    ({"stages": ["pretrain", "classify"]}, "stages", "alone"),
    ({"model": {"base": "ember"}}, "model.base", "method: sft"),
    ({"adapter": "lora"}, "adapter.kind", "full"),
    ({"exports": ["merged", "gguf"]}, "exports.1.kind", "AutoModelForSequenceClassification"),
    ({"evaluation": {"tasks": ["domain", "forgetting"]}}, "evaluation.tasks.1", "domain"),
    ({"gate": {"max_forget": 0.1}}, "gate.max_forget", "words"),
    ({"training": {"context": 4096}}, "training.context", "128"),
]


@pytest.mark.parametrize(("changes", "key", "word"), REFUSED, ids=[key for _, key, _ in REFUSED])
def test_what_an_encoder_cannot_do_is_refused_in_words(
    story: Path, tmp_path: Path, changes: dict[str, Any], key: str, word: str
) -> None:
    shutil.copy(story / "reviews.csv", tmp_path / "reviews.csv")
    path = recipe(tmp_path, story / "base", **changes)
    if "stages" in changes:
        path.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(path.read_text()).items() if k != "method"}))
    said = danlu("check", path)
    assert said.code != 0
    assert any(key in line and word in line for line in (said.out + said.err).splitlines()), said.out + said.err


def test_one_class_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    write_reviews(tmp_path / "reviews.csv", [(text, "好评") for text, _ in ROWS[:60]])
    base = write_bert(tmp_path / "base", [text for text, _ in ROWS])
    said = danlu("prepare", recipe(tmp_path, base), "--runs", tmp_path / "runs")
    assert said.code != 0 and "好评" in said.err


class Harmed(MergedExport):
    """Writes a right folder, and then does something to it."""

    def __init__(self, harm: Callable[[Path], None]) -> None:
        super().__init__("fp32")
        self.harm = harm

    def write(self, subject: Subject, folder: Path) -> None:
        super().write(subject, folder)
        self.harm(folder)


def shrink(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.encoder.layer.1.output.dense.weight"] *= 0.99
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def swap(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = dict(zip(config["id2label"], reversed(config["id2label"].values()), strict=True))
    (folder / "config.json").write_text(json.dumps(config))


def keep_case(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("harm", "noticed"),
    [
        (shrink, {"weights", "danlu_logits", "transformers_logits"}),
        (swap, {"danlu_classes", "transformers_classes"}),
        (keep_case, {"tokenizer"}),
        (lambda folder: None, set()),
    ],
    ids=["a matrix at 0.99", "names swapped", "another normaliser", "nothing"],
)
def test_a_proof_notices_what_is_wrong(
    story: Path, tmp_path: Path, harm: Callable[[Path], None], noticed: set[str]
) -> None:
    run = Run.open(run_of(story))
    engines = package.open_engines(run)
    facts = Facts("reviews", {"name": "base", "digest": engines.tuned.model.digest})
    manifest = export(
        Harmed(harm), engines.tuned, tmp_path / "out", contract=Contract.from_json(run.read("contract.json")),
        facts=facts, probes=[[Message("user", text)] for text, _ in ROWS[:6]],
    )  # fmt: skip
    failed = {check["name"] for check in manifest.parity["checks"] if check["verdict"] == "fail"}
    assert noticed <= failed and (manifest.parity["verdict"] == "pass") == (not noticed)


def test_one_command_writes_the_recipe_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`danlu run DATA` with an encoder: a recipe without faults of its own, and no server is offered for what none serves."""
    monkeypatch.chdir(tmp_path)
    rows = reviews(80)
    base = with_weights(write_bert(tmp_path / "bert", [text for text, _ in rows]))
    write_reviews(tmp_path / "reviews.csv", rows)
    said = danlu("run", "reviews.csv", f"model.base={base}", "training.max_steps=2", "--yes", "--lang", "en")
    assert "most frequent class" in said.out and "Verdict:" in said.out, said.err
    assert "danlu chat" in said.out and "danlu serve" not in said.out
    assert "kind: classify" in (tmp_path / "reviews.yaml").read_text("utf-8")
