"""What `danlu run DATA` decides before anything is trained: language, lengths, base, numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from danlu.core.errors import RecipeError
from danlu.pipeline import begin as beginning
from danlu.pipeline.begin import begin, place_of
from danlu.pipeline.survey import survey
from danlu.pipeline.write_recipe import as_yaml
from danlu.planning.advice.numbers import Facts, choose_stages
from danlu.planning.cards import find_card
from danlu.planning.plan import Limits
from danlu.recipe import Recipe


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def qa(question: str, answer: str, num: int = 50) -> list[dict[str, str]]:
    return [{"question": f"{question} {n}?", "answer": answer} for n in range(num)]


@pytest.mark.parametrize(
    ("question", "answer", "language"),
    [
        ("住宿费标准是多少", "每晚不超过五百元。", "zh"),
        ("How much is a night", "At most five hundred.", "en"),
        ("宿泊費の上限はいくらですか", "ひとばんごせんえんまでです。", "multi"),
        ("Сколько стоит ночь", "Не больше пятисот.", "multi"),
    ],
)
def test_the_language_is_that_of_the_text(tmp_path: Path, question: str, answer: str, language: str) -> None:
    assert survey([write(tmp_path / "qa.jsonl", qa(question, answer))]).language == language


def test_a_readme_beside_thousands_of_questions_is_no_stage(tmp_path: Path) -> None:
    write(tmp_path / "qa.jsonl", qa("How much is a night", "At most five hundred.", 2000))
    (tmp_path / "README.md").write_text("# Where this is from\n\nWritten by hand.\n")
    facts = survey([tmp_path]).facts(4.0)
    assert facts.kinds == {"conversation": 2000, "document": 1} and facts.has_few_documents
    stages, reasons = choose_stages(facts)
    assert stages == ("sft",) and "documents_few" in {reason.code for reason in reasons}
    assert choose_stages(Facts({"document": 9, "conversation": 9}, 100, tokens_of={"document": 50}))[0][0] == "pretrain"


def test_rows_longer_than_the_base_reads_are_told_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = qa("Tell me", "It is so. " * 900, 10) + qa("Tell me more", "Yes.", 40)
    write(tmp_path / "long.jsonl", rows)
    found = begin([Path("long.jsonl")], place_of([Path("long.jsonl")]))
    text = found.file.read_text("utf-8")
    assert found.recipe.training.context == 1024 and found.recipe.data.over_length == "split"
    assert found.recipe.data.max_rejected == pytest.approx(0.4, abs=0.05) and "20%" in text


def test_the_best_base_that_is_here_is_taken_with_its_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a card with two bases in the hub's own cache: the one that fits the task, in few bits where it has to be."""
    monkeypatch.chdir(tmp_path)
    card = find_card("RTX 4060")
    assert card is not None
    monkeypatch.setattr(beginning, "device_of", lambda: (card, Limits.of(card)))
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "qa.jsonl", qa("How much is a night", "At most five hundred.", 300))
    for name, hidden, layers, ffn in (("0.6B", 1024, 28, 3072), ("4B", 2560, 36, 9728)):
        folder = tmp_path / ".cache/huggingface/hub" / f"models--Qwen--Qwen3-{name}" / "snapshots" / "0"
        folder.mkdir(parents=True)
        shapes = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": ffn, "head_dim": 128,
                  "num_attention_heads": 32 if layers == 36 else 16, "num_key_value_heads": 8, "vocab_size": 151_936,
                  "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": True}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(shapes))
        for other in ("tokenizer.json", "model.safetensors"):
            (folder / other).touch()
    found = begin([Path("qa.jsonl")], place_of([Path("qa.jsonl")]))
    assert found.start is not None and "Qwen3-4B" in found.start.base and found.start.reason is not None
    assert found.recipe.model.quantize == "nf4" and found.recipe.training.lr == 2e-4
    assert all(plan.fits for plan in found.plans) and found.total_s


def test_numbers_are_written_as_yaml_reads_them(tmp_path: Path) -> None:
    import yaml

    for value in (5e-06, 0.0002, 1e-4, 3.0, 0.1, "a: b", "数据 #1", "007", "no", [1, "x"], True):
        read = yaml.safe_load(f"key: {as_yaml(value)}   # reason")["key"]
        assert read == value and isinstance(read, str) == isinstance(value, str)


def test_a_chain_has_a_rate_for_each_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rate for all would train DPO at ten times the usual one."""
    monkeypatch.chdir(tmp_path)
    pairs = [{"prompt": f"How {n}?", "chosen": "So.", "rejected": "Not at all."} for n in range(40)]
    write(tmp_path / "qa.jsonl", qa("How much is a night", "At most five hundred.", 300))
    write(tmp_path / "pairs.jsonl", pairs)
    data = [Path("qa.jsonl"), Path("pairs.jsonl")]
    recipe = begin(
        data, place_of(data, ["model.base=Qwen/Qwen3-0.6B"]), overrides=["model.base=Qwen/Qwen3-0.6B"]
    ).recipe
    assert [(stage.method.kind, stage.training.lr) for stage in recipe.plan_stages()] == [("sft", 2e-4), ("dpo", 2e-5)]
    assert Recipe.load("qa.yaml").round.mark == place_of(data).mark


def test_an_encoder_gets_the_recipe_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").mkdir()
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2,
             "vocab_size": 100, "max_position_embeddings": 64, "type_vocab_size": 2, "model_type": "bert",
             "architectures": ["BertModel"]}  # fmt: skip
    (tmp_path / "bert" / "config.json").write_text(json.dumps(shape))
    write(
        tmp_path / "labels.jsonl", [{"text": f"Cold soup {n}.", "label": "good" if n % 3 else "bad"} for n in range(60)]
    )
    base = [f"model.base={tmp_path / 'bert'}"]
    found = begin([Path("labels.jsonl")], place_of([Path("labels.jsonl")], base), overrides=base)
    (stage,) = found.recipe.plan_stages()
    assert stage.method.kind == "classify" and found.recipe.adapter.kind == "full"
    assert found.recipe.training.context <= 64 and [one.kind for one in found.recipe.exports] == ["merged"]
    assert place_of([Path("labels.jsonl")], base).is_there, "the same command finds it again"
    write(tmp_path / "qa.jsonl", qa("How much is a night", "At most five hundred."))
    with pytest.raises(RecipeError) as caught:
        begin([Path("qa.jsonl")], place_of([Path("qa.jsonl")], base), overrides=base)
    assert caught.value.key == "begin.encoder_wants_labels" and not (tmp_path / "qa.yaml").exists()
