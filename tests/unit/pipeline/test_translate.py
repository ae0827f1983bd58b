"""Another suite's configuration as a recipe: each value translated with its origin, nothing dropped unseen.

The files below hold keys and values as the examples of these suites have them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from danlu.core.errors import RecipeError
from danlu.core.messages import set_language
from danlu.pipeline.check import check
from danlu.pipeline.translate import Translation, translate, translated_text
from danlu.recipe import Recipe
from danlu.recipe.habit_values import DEFAULTS, HANDLED_TOGETHER, NAMES, READ_FROM_BASE, WORDS
from danlu.recipe.habits import NEEDLESS
from danlu.recipe.knobs import all_knobs

LLAMA_FACTORY = {
    "model_name_or_path": "meta-llama/Meta-Llama-3-8B-Instruct", "trust_remote_code": True, "stage": "sft",
    "do_train": True, "finetuning_type": "lora", "lora_rank": 8, "lora_target": "all", "dataset": "identity,faq",
    "template": "llama3", "cutoff_len": 2048, "max_samples": 1000, "preprocessing_num_workers": 16,
    "output_dir": "saves/llama3-8b/lora/sft", "logging_steps": 10, "save_steps": 500,
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "learning_rate": 1.0e-4,
    "num_train_epochs": 3.0, "lr_scheduler_type": "cosine", "warmup_steps": 12, "bf16": True,
}  # fmt: skip
AXOLOTL = {
    "base_model": "NousResearch/Llama-3.2-1B", "load_in_8bit": False, "load_in_4bit": True,
    "datasets": [{"path": "org/on-a-hub", "type": "alpaca"}], "val_set_size": 0.1, "output_dir": "./outputs/lora-out",
    "adapter": "qlora", "sequence_len": 2048, "sample_packing": True, "lora_r": 16, "lora_alpha": 32,
    "lora_dropout": 0.05, "lora_target_modules": ["gate_proj", "q_proj"], "wandb_project": None,
    "gradient_accumulation_steps": 2, "micro_batch_size": 2, "num_epochs": 1, "optimizer": "adamw_8bit",
    "lr_scheduler": "cosine", "learning_rate": 0.0002, "train_on_inputs": False, "bf16": "auto", "tf32": False,
    "gradient_checkpointing": True, "warmup_steps": 10, "evals_per_epoch": 4, "weight_decay": 0.0,
    "special_tokens": {"pad_token": "<|end_of_text|>"},
}  # fmt: skip
SWIFT = """# 22GB
CUDA_VISIBLE_DEVICES=0 \\
swift sft \\
    --model Qwen/Qwen2.5-7B-Instruct \\
    --train_type lora \\
    --dataset 'org/alpaca-zh#500' \\
              'own.jsonl#3' \\
    --torch_dtype bfloat16 --learning_rate 1e-4 --lora_rank 8 --target_modules all-linear \\
    --gradient_accumulation_steps 16 --max_length 2048 \\
    --system 'You are a helpful assistant.' --warmup_ratio 0.05 --early_stop_interval 3
"""
TRL = {
    "model_name_or_path": "org/sft-model", "torch_dtype": "float16", "use_peft": True, "load_in_4bit": True,
    "lora_r": 16, "lora_alpha": 16, "lora_target_modules": ["q_proj", "k_proj"], "beta": 0.01, "bf16": True,
    "dataset_mixer": {"org/pairs": 1.0}, "eval_steps": 100, "hub_model_id": "mine", "learning_rate": 5.0e-6,
    "lr_scheduler_type": "inverse_sqrt", "max_length": 1024, "num_train_epochs": 1, "optim": "paged_adamw_32bit",
    "output_dir": "data/zephyr-dpo", "per_device_train_batch_size": 4, "seed": 42, "warmup_ratio": 0.9,
}  # fmt: skip


def values(found: Translation) -> dict[str, object]:
    return {knob: one.value for knob, one in found.carried.items()}


def reasons(found: Translation) -> dict[str, str]:
    return {one.name: one.why for one in found.left}


def rows(path: Path, num: int, **columns: str) -> None:
    row = columns or {"instruction": "What is it, and where?", "output": "It is here, of course."}
    path.write_text((json.dumps(row) + "\n") * num, encoding="utf-8")


@pytest.fixture
def llama_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As in a checkout: examples/…/sft.yaml and data/dataset_info.json; one dataset under names of its own."""
    (tmp_path / "data").mkdir()
    rows(tmp_path / "data" / "identity.jsonl", 40)
    rows(tmp_path / "data" / "faq.jsonl", 40, 问="到哪里报销？", 答="财务处三楼。")
    entries = {"identity": {"file_name": "identity.jsonl"},
               "faq": {"file_name": "faq.jsonl", "columns": {"prompt": "问", "response": "答"}}}  # fmt: skip
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(entries))
    file = tmp_path / "examples" / "train_lora" / "sft.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(LLAMA_FACTORY))
    monkeypatch.chdir(tmp_path)
    return file


def test_a_llama_factory_file_with_its_dataset_info(llama_factory: Path, tmp_path: Path) -> None:
    found = translate(llama_factory)
    told = values(found)
    assert (found.suite, found.name) == ("LLaMA-Factory", "llama3-8b-lora-sft")
    assert told["model.base"] == LLAMA_FACTORY["model_name_or_path"] and told["model.dtype"] == "bfloat16"
    assert (told["method.kind"], told["adapter.kind"], told["adapter.rank"]) == ("sft", "lora", 8)
    assert (told["adapter.targets"], told["training.context"], told["training.lr"]) == ("all-linear", 2048, 1e-4)
    assert (told["training.epochs"], told["training.schedule"], told["training.save_every"]) == (3.0, "cosine", 500)
    assert told["training.warmup_ratio"] == pytest.approx(12 / (80 / 8 * 3), abs=1e-4), "of as many steps as rows make"
    assert told["training.weight_decay"] == 0.0, "what it takes without being told, where danlu takes another"
    assert told["training.batch_tokens"] == 2048 and "8 ×" in found.carried["training.batch_tokens"].origin
    assert [source.columns for source in found.sources] == [{}, {"instruction": "问", "output": "答"}]
    file = tmp_path / "mine.yaml"
    file.write_text(translated_text(found, llama_factory), encoding="utf-8")
    recipe = Recipe.load(file, ["model.base=ember"])
    assert check(recipe)["ok"] and recipe.training.lr == 1e-4 and len(recipe.data.sources) == 2


def test_every_key_is_carried_or_named_with_a_reason(llama_factory: Path) -> None:
    """Nothing silent: but for what is off, or empty."""
    found = translate(llama_factory)
    text = translated_text(found, llama_factory)
    for key in LLAMA_FACTORY:
        assert f"{key}:" in text or key in ("dataset", "output_dir", "gradient_accumulation_steps"), key
    assert reasons(found).keys() == {
        "trust_remote_code", "do_train", "template", "max_samples", "logging_steps",
    }  # fmt: skip


def test_an_axolotl_file_where_silence_means_something(tmp_path: Path) -> None:
    file = tmp_path / "lora.yml"
    file.write_text(yaml.safe_dump(AXOLOTL))
    found = translate(file)
    told = values(found)
    assert (told["adapter.kind"], told["model.quantize"], told["adapter.alpha"]) == ("lora", "nf4", 32.0)
    assert told["adapter.targets"] == ["gate_proj", "q_proj"] and told["training.optimizer"] == "adamw_8bit"
    assert told["training.batch_tokens"] == 2 * 2 * 2048, "packed rows are full"
    assert told["training.eval_every"] == 0.25 and told["data.split.validation"] == 0.1
    assert "method.train_on" not in told, "false is danlu's own"
    assert {"datasets", "special_tokens", "warmup_steps", "gradient_checkpointing"} <= reasons(found).keys()
    without = {key: value for key, value in AXOLOTL.items() if key not in ("adapter", "load_in_4bit")}
    file.write_text(yaml.safe_dump(without))
    found = translate(file)
    assert values(found)["adapter.kind"] == "full" and "lora_r" in reasons(found)
    file.with_name("full.yaml").write_text(translated_text(found, file), encoding="utf-8")
    assert Recipe.load(file.with_name("full.yaml")).adapter.kind == "full"


def test_a_swift_script_is_read_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows(tmp_path / "own.jsonl", 30)
    (tmp_path / "train.sh").write_text(SWIFT)
    found = translate(Path("train.sh"))
    told = values(found)
    assert found.suite == "ms-swift" and told["model.hub"] == "modelscope"
    assert told["model.system"] == "You are a helpful assistant." and told["training.lr"] == 1e-4
    assert told["adapter.alpha"] == 32, "fixed there, whatever the rank is"
    assert [source.path for source in found.sources] == [Path("own.jsonl")]
    assert any(one.given == "org/alpaca-zh#500" for one in found.left) and any(one.given == "3" for one in found.left)


def test_which_layers_train_and_dora(tmp_path: Path) -> None:
    """LLaMA-Factory's number means the last ones, PEFT's one layer; freezing trains two where nothing else is said."""
    file = tmp_path / "sft.yaml"
    told = []
    for more in ({"finetuning_type": "freeze"}, {"finetuning_type": "freeze", "freeze_trainable_layers": 3},
                 {"layers_to_transform": 5, "use_dora": True}, {"layers_to_transform": [1, 2]}):  # fmt: skip
        file.write_text(yaml.safe_dump(LLAMA_FACTORY | more))
        found = translate(file)
        file.with_name("out.yaml").write_text(translated_text(found, file), encoding="utf-8")
        adapter = Recipe.load(file.with_name("out.yaml")).adapter
        told.append((adapter.kind, values(found).get("adapter.layers"), values(found).get("adapter.dora")))
    assert told == [("full", 2, None), ("full", 3, None), ("lora", [5], True), ("lora", [1, 2], None)]


def test_arguments_of_a_trl_script(tmp_path: Path) -> None:
    file = tmp_path / "dpo.json"
    file.write_text(json.dumps(TRL))
    found = translate(file)
    told, left = values(found), reasons(found)
    assert (found.suite, told["method.kind"], told["method.beta"]) == ("TRL", "dpo", 0.01)
    assert told["model.dtype"] == "float16" and "torch_dtype" in left["bf16"]
    assert told["training.lr"] == 5e-6 and told["training.optimizer"] == "adamw"
    assert {"lr_scheduler_type", "dataset_mixer", "eval_steps", "hub_model_id"} <= left.keys()
    assert "warmup_ratio" in left and "training.warmup_ratio" not in told, "danlu allows at most half"
    assert "training.schedule" not in told


def test_what_a_suite_takes_without_being_told_is_carried(tmp_path: Path) -> None:
    """Their defaults that decide what is learnt, and are other ones than danlu's."""
    (tmp_path / "train.sh").write_text("swift sft --model org/base --train_type lora --max_length 1024\n")
    swift = values(translate(tmp_path / "train.sh"))
    assert (swift["training.schedule"], swift["training.weight_decay"], swift["adapter.dropout"]) == (
        "cosine",
        0.1,
        0.05,
    )
    assert swift["training.batch_tokens"] == 16 * 1024, "accumulated to sixteen rows"
    file = tmp_path / "lora.yml"
    file.write_text(yaml.safe_dump({k: v for k, v in AXOLOTL.items() if k not in ("num_epochs", "lr_scheduler")}))
    axolotl = values(translate(file))
    assert (axolotl["training.epochs"], axolotl["training.schedule"]) == (1.0, "cosine")
    file.write_text(yaml.safe_dump(AXOLOTL | {"lr_scheduler": "rex"}))
    found = translate(file)
    assert "lr_scheduler" in reasons(found) and "training.schedule" not in values(found), "told is not untold"


@pytest.mark.parametrize("words", ["Answer: yes: no", "note: brief", "@handle", "- first", "{role}", "2026-11-23"])
def test_arguments_are_text_where_yaml_would_see_more(tmp_path: Path, words: str) -> None:
    (tmp_path / "train.sh").write_text(f"swift sft --model org/base --learning_rate 1e-4 --system '{words}'\n")
    assert translate(tmp_path / "train.sh").carried["model.system"].value == words


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, language: str) -> None:
    set_language(language)  # type: ignore[arg-type]
    file = tmp_path / "compose.yaml"
    file.write_text("services: {web: {image: nginx}}\n")
    with pytest.raises(RecipeError) as caught:
        translate(file)
    assert caught.value.key == "translate.nothing" and caught.value.fix
    (tmp_path / "quote.sh").write_text("swift sft --model 'x\n")
    with pytest.raises(RecipeError):
        translate(tmp_path / "quote.sh")


def test_the_tables_name_knobs_that_there_are() -> None:
    knobs = all_knobs(Recipe).keys()
    kinds = {"method.kind", "adapter.kind", "name"}
    sections = ("data.sources", "serving.", "tracking.", "exports.")
    for name, knob in NAMES.items():
        assert knob in knobs or knob in kinds or knob.startswith(sections), (name, knob)
    assert WORDS.keys() <= {*knobs, *kinds}
    for suite, defaults in DEFAULTS.items():
        assert defaults.keys() <= NAMES.keys(), suite
    assert not set(HANDLED_TOGETHER) & set(NEEDLESS) and not set(READ_FROM_BASE) & set(NEEDLESS)
