"""`danlu check` says before training what could not be served after it; each rule with a recipe that breaks it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import RecipeError
from danlu.core.progress import Silent
from danlu.pipeline.check import check
from danlu.pipeline.check_exports import refuse_unservable
from danlu.planning.servable import adapter_faults, coarser_rows, gguf_faults
from danlu.recipe import Recipe
from danlu.recipe.exports import VLLM_RANKS
from tiny_chat import write_tokenizer

CONFIG: dict[str, Any] = {
    "model_type": "qwen2", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip


def base(folder: Path, **more: Any) -> Path:
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG | more))
    return folder


def checked(tmp_path: Path, tree: dict[str, Any], **more: Any) -> tuple[dict[str, str], list[str]]:
    """(what is expected by the key of each error, warnings)."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "qa.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    model = {"base": str(base(tmp_path / "base", **more))}
    recipe = Recipe.from_tree({"model": model, "data": {"sources": [str(tmp_path / "qa.jsonl")]}} | tree)
    found = check(recipe)
    return {error["key"]: error["expected"] for error in found["errors"]}, [w["error"] for w in found["warnings"]]


def test_what_can_be_served_is_fine(tmp_path: Path) -> None:
    kinds = ["adapter", "merged", "gguf", "gguf-lora", "ollama", "lmstudio", "vllm", "vllm-lora"]
    errors, warnings = checked(tmp_path, {"exports": kinds})
    assert not errors and not [name for name in warnings if name.startswith("serving.no_gguf")]


def test_a_family_that_llamacpp_does_not_know(tmp_path: Path) -> None:
    errors, _ = checked(tmp_path, {"exports": ["gguf"]}, model_type="gpt_neox")
    assert "gpt_neox" in errors["exports.0.kind"]


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "qwen3", "attention_bias": True}, {"model_type": "llama", "rope_scaling": {"type": "longrope"}},
        {"model_type": "phi3", "hidden_size": 64, "num_attention_heads": 4, "head_dim": 32},
    ],
)  # fmt: skip
def test_what_llamacpp_would_compute_otherwise(config: dict[str, Any]) -> None:
    assert len(list(gguf_faults(config))) == 1


def test_early_phi3_files_mean_longrope() -> None:
    assert not list(gguf_faults({"model_type": "phi3", "rope_scaling": {"type": "su"}}))


def test_tokens_that_were_added_without_resizing(tmp_path: Path) -> None:
    errors, _ = checked(tmp_path, {"exports": ["gguf"]}, vocab_size=500)
    assert "500" in errors["model.base"]


def test_a_template_that_ollama_cannot_say(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = (
        "{% for m in messages %}{% if m.role == 'user' %}{% if loop.last and messages[0].role == 'system' %}"
        "{{ messages[0].content }}{% endif %}<|im_start|>{{ m.content }}<|im_end|>{% elif m.role == 'assistant' %}"
        "{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "qa.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    tree = {"model": {"base": str(folder)}, "data": {"sources": [str(tmp_path / "qa.jsonl")]}}
    (error,) = check(Recipe.from_tree(tree | {"exports": ["ollama"]}))["errors"]
    assert error["key"] == "exports.0.kind" and "Ollama" in error["expected"]
    assert check(Recipe.from_tree(tree | {"exports": ["gguf"]}))["ok"]


def test_ranks_that_vllm_has_no_room_for(tmp_path: Path) -> None:
    assert not list(adapter_faults({"model_type": "qwen2"}, 512, "all-linear", VLLM_RANKS))
    (fault,) = adapter_faults({"model_type": "phi3"}, 256, "all-linear", VLLM_RANKS)
    assert fault.values["stored"] == 768, "q, k and v are one layer of the checkpoint"
    assert not list(adapter_faults({"model_type": "phi3"}, 256, ["o_proj", "down_proj"], VLLM_RANKS))
    errors, _ = checked(tmp_path, {"exports": ["vllm-lora"], "adapter": {"rank": 1024}})
    assert "512" in errors["exports.0.kind"]


def test_heads_are_no_targets_of_an_adapter_for_vllm() -> None:
    (fault,) = adapter_faults(None, 8, ["q_proj", "lm_head"], VLLM_RANKS)
    assert fault.key == "heads"


def test_an_adapter_to_continue_from_with_whole_modules(tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    (start / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "modules_to_save": ["embed_tokens"]}))
    errors, _ = checked(tmp_path, {"adapter": {"start": str(start)}})
    assert "modules_to_save" in errors["adapter.start"]


def test_costs_are_told_and_stop_nobody(tmp_path: Path) -> None:
    tree = {"exports": [{"kind": "gguf", "quantize": "q4_k_m"}], "training": {"context": 400}}
    errors, warnings = checked(tmp_path, tree, model_type="mistral", sliding_window=256)
    assert not errors and {"serving.odd_rows", "serving.no_gguf_window"} <= set(warnings)
    assert not list(coarser_rows({"hidden_size": 896, "intermediate_size": 4864}, "q8_0"))


def test_one_export_twice(tmp_path: Path) -> None:
    errors, _ = checked(tmp_path, {"exports": ["gguf", {"kind": "gguf", "quantize": "q4_k_m"}, "gguf"]})
    assert list(errors) == ["exports.2"]


def test_full_training_has_no_adapter_to_ship(tmp_path: Path) -> None:
    errors, warnings = checked(tmp_path, {"adapter": {"kind": "full"}, "exports": ["gguf-lora", "gguf"]})
    assert not errors and "serving.no_adapter" in warnings


def test_a_type_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="q8_0"):
        Recipe.from_tree({"exports": [{"kind": "gguf", "quantize": "fp8"}]})


def test_checking_needs_no_torch(tmp_path: Path) -> None:
    base(tmp_path / "base")
    (tmp_path / "qa.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    (tmp_path / "r.yaml").write_text(
        "model: {base: base}\ndata: {sources: [qa.jsonl]}\nexports: [gguf, ollama, vllm-lora]\n"
    )
    code = (
        "import sys; from danlu.recipe import Recipe; from danlu.pipeline.check import check;"
        f"assert check(Recipe.load({str(tmp_path / 'r.yaml')!r}))['ok']; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_exports_into_one_repository(tmp_path: Path) -> None:
    """What is sent second would take the place of the first."""
    push = {"repo": "me/expert"}
    errors, _ = checked(tmp_path, {"exports": [{"kind": "adapter", "push": push}, {"kind": "gguf", "push": push}]})
    assert list(errors) == ["exports.1.push.repo"]


def test_what_sending_needs_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.pipeline.check_exports.token_file", lambda hub: tmp_path / f"{hub}.token")
    recipe = {"exports": [{"kind": "adapter", "push": {"repo": "me/expert"}}]}
    assert "serving.no_token" in checked(tmp_path, recipe)[1]
    (tmp_path / "huggingface.token").write_text("hf_abc")
    assert "serving.no_token" not in checked(tmp_path, recipe)[1]


@pytest.mark.parametrize("package", ["gguf", "xllamacpp", "compressed_tensors", "huggingface_hub", "modelscope_hub"])
def test_a_missing_extra_is_told_before_training(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else find(name, *more))
    pushes = [{"repo": "me/one"}, {"repo": "me/two", "hub": "modelscope"}]
    exports = [{"kind": "gguf", "push": pushes[0]}, {"kind": "vllm", "quantize": "fp8", "push": pushes[1]}]
    errors, warnings = checked(tmp_path, {"exports": exports})
    assert not errors and ("serving.no_client" if package.endswith("hub") else "serving.no_package") in warnings


def test_training_does_not_begin_where_its_export_would_be_refused(tmp_path: Path) -> None:
    recipe = Recipe.from_tree({
        "data": {"sources": ["qa.jsonl"]}, "adapter": {"kind": "lora", "rank": 1024}, "exports": ["merged", "vllm-lora"],
    })  # fmt: skip
    with pytest.raises(RecipeError, match="512"):
        refuse_unservable(recipe, None, Silent())


def test_what_four_bits_need_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "auto_round" else find(name, *more)
    )
    errors, warnings = checked(tmp_path, {"exports": ["awq", "gptq"]})
    assert not errors and "serving.no_rounding" in warnings
    errors, _ = checked(tmp_path, {"exports": ["awq"]}, intermediate_size=100)
    assert "100" in errors["exports.0.kind"] and "32" in errors["exports.0.kind"]


def test_a_vllm_that_is_not_where_it_is_said_to_be(tmp_path: Path) -> None:
    export = {"kind": "vllm", "vllm": str(tmp_path / "bin" / "python")}
    assert "serving.no_vllm" in checked(tmp_path, {"exports": [export]})[1]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "vllm").write_text("")
    assert "serving.no_vllm" not in checked(tmp_path, {"exports": [export]})[1]


DORA = {"adapter": {"kind": "lora", "dora": True}}
PREFIX = {"adapter": {"kind": "prefix"}}


@pytest.mark.parametrize("kind", ["gguf-lora", "vllm-lora"])
def test_what_takes_plain_pairs_alone_takes_no_dora(tmp_path: Path, kind: str) -> None:
    errors, warnings = checked(tmp_path, DORA | {"exports": ["merged", kind]})
    assert list(errors) == ["exports.1.kind"] and "DoRA" in errors["exports.1.kind"]
    assert "serving.dora_unserved" not in warnings, "what is merged is served everywhere"


def test_who_reads_a_dora_adapter_is_said_beforehand(tmp_path: Path) -> None:
    errors, warnings = checked(tmp_path, DORA | {"exports": ["adapter", "merged", "gguf"]})
    assert not errors and "serving.dora_unserved" in warnings


@pytest.mark.parametrize("kind", ["merged", "gguf", "vllm", "gguf-lora", "vllm-lora", "awq", "ollama"])
def test_a_prefix_is_shipped_as_it_is_or_not_at_all(tmp_path: Path, kind: str) -> None:
    errors, _ = checked(tmp_path, PREFIX | {"exports": [kind]})
    assert list(errors) == ["exports.0.kind"] and "merged" in errors["exports.0.kind"]


def test_a_prefix_whose_exports_nobody_named(tmp_path: Path) -> None:
    """The usual ones are meant for a LoRA: what cannot be is left out, and said."""
    errors, warnings = checked(tmp_path, PREFIX)
    assert not errors and {"serving.prefix_unmerged", "serving.prefix_unserved"} <= set(warnings)


def test_a_prefix_needs_our_own_decoder(tmp_path: Path) -> None:
    errors, _ = checked(tmp_path, PREFIX | {"exports": ["adapter"]}, model_type="gpt_neox")
    assert list(errors) == ["adapter.kind"]


@pytest.mark.parametrize("dora", [True, False])
def test_what_is_gone_on_from_is_of_the_kind_that_the_recipe_says(tmp_path: Path, dora: bool) -> None:
    start = tmp_path / "start"
    start.mkdir()
    (start / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "use_dora": dora}))
    for said in (True, False):
        errors, _ = checked(tmp_path / str(said), {"adapter": {"dora": said, "start": str(start)}})
        assert list(errors) == ([] if said == dora else ["adapter.dora"])


def test_layers_that_the_base_has_not(tmp_path: Path) -> None:
    errors, _ = checked(tmp_path, {"adapter": {"layers": 3}})
    assert errors == {"adapter.layers": "layers that the base has: 2, numbered 0 to 1"}
