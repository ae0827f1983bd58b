"""Checkpoints in and out: what is damaged, foreign or dangerous is refused by name; what is saved comes back."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from danlu.core.errors import ModelError
from danlu.model import tensor_file, weights
from danlu.model.build import load_model, load_state, save_model
from danlu.model.shards import INDEX, SINGLE, find_shards, read_header

CONFIG: dict[str, Any] = {
    "model_type": "qwen2", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "a_key": "kept",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole checkpoint with a tokenizer's file beside it."""
    seed = tmp_path / "seed"
    seed.mkdir()
    (seed / "config.json").write_text(json.dumps(CONFIG))
    (seed / "tokenizer.json").write_text("{}")
    (seed / "generation_config.json").write_text('{"top_p": 0.8}')
    save_model(load_model(seed, init="random", dtype="fp32"), tmp_path / "base")
    return tmp_path / "base"


def refusal(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_model(folder, dtype="fp32")
    assert str(caught.value)  # the text of the catalogue fits its values
    return caught.value


def test_saved_and_loaded_is_the_same(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, dtype="fp32")
    save_model(model, tmp_path / "again")
    again = load_model(tmp_path / "again", dtype="fp32")
    for (name, ours), (other, theirs) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == other and torch.equal(ours, theirs)
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config == {**CONFIG, "torch_dtype": "float32"}
    assert (tmp_path / "again" / "tokenizer.json").exists() and (tmp_path / "again" / "generation_config.json").exists()


def test_dtype_on_disk_is_chosen_apart_from_memory(folder: Path, tmp_path: Path) -> None:
    save_model(load_model(folder, dtype="fp32"), tmp_path / "half", "bf16")
    stored = load_file(tmp_path / "half" / SINGLE)
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert load_model(tmp_path / "half", dtype="fp32").dtype == torch.float32


def test_a_tied_head_is_stored_once(folder: Path) -> None:
    assert "lm_head.weight" not in read_header(folder / SINGLE)


def test_big_models_are_sharded_with_an_index(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SHARD_BYTES", 4000)
    model = load_model(folder, dtype="fp32")
    save_model(model, tmp_path / "sharded")
    shards = find_shards(tmp_path / "sharded")
    assert len(shards) > 2 and (tmp_path / "sharded" / INDEX).exists()
    for ours, theirs in zip(
        model.parameters(), load_model(tmp_path / "sharded", dtype="fp32").parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    # Saving over it as a single file leaves nothing that could be read in its stead.
    monkeypatch.setattr(weights, "SHARD_BYTES", 10**9)
    save_model(model, tmp_path / "sharded")
    assert find_shards(tmp_path / "sharded") == [tmp_path / "sharded" / SINGLE]
    assert len(list((tmp_path / "sharded").glob("*.safetensors*"))) == 1


def test_a_failed_save_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_model(load_model(folder, dtype="fp32"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_load_state_keeps_the_parameters_themselves(folder: Path) -> None:
    model, source = load_model(folder, init="random", seed=7, dtype="bf16"), load_model(folder, dtype="fp32")
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    load_state(model, folder)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before
    for ours, theirs in zip(model.parameters(), source.parameters(), strict=True):
        assert torch.equal(ours, theirs.bfloat16())


def test_random_weights_follow_their_seed(folder: Path) -> None:
    one, same, other = (load_model(folder, init="random", seed=s, dtype="fp32") for s in (1, 1, 2))
    assert torch.equal(one.head_weight, same.head_weight) and not torch.equal(one.head_weight, other.head_weight)
    assert one.digest == same.digest != other.digest
    assert 0.015 < one.head_weight.std().item() < 0.025
    assert not one.get_parameter("model.layers.0.self_attn.q_proj.bias").any()


def test_random_weights_need_no_weights_on_disk(folder: Path) -> None:
    (folder / SINGLE).unlink()
    drawn, again = (load_model(folder, init="random", dtype="fp32", seed=3) for _ in range(2))
    for one, other in zip(drawn.parameters(), again.parameters(), strict=True):
        assert one.isfinite().all() and torch.equal(one, other)


def test_digest_follows_config_and_content(folder: Path, tmp_path: Path) -> None:
    first = load_model(folder, dtype="fp32").digest
    assert first == load_model(folder, dtype="bf16").digest
    tensors = load_file(folder / SINGLE)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, folder / SINGLE)
    assert load_model(folder, dtype="fp32").digest != first


# ---- refused


def test_pickle_is_refused_by_name(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    assert refusal(folder).key == "model.pickle"


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_is_refused_by_content(folder: Path, zipped: bool) -> None:
    if zipped:
        torch.save({"a": torch.zeros(1)}, folder / SINGLE)
    else:
        (folder / SINGLE).write_bytes(pickle.dumps({"weights": list(range(100))}))
    error = refusal(folder)
    assert error.key == "model.pickle" and SINGLE in error.where


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1])
def test_truncated_file_is_named(folder: Path, keep: int) -> None:
    content = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(content[:keep])
    error = refusal(folder)
    assert error.key == "model.corrupt" and SINGLE in str(error)


def test_too_long_file_is_named(folder: Path) -> None:
    with (folder / SINGLE).open("ab") as file:
        file.write(b"more")
    assert refusal(folder).key == "model.corrupt"


@pytest.mark.parametrize(
    "header", [b"not json", b"[]", b'{"a": 3}', b'{"a": {"dtype": "F32", "shape": [1]}}', b"\xff\xfe{}"]
)
def test_nonsense_header_is_named(folder: Path, header: bytes) -> None:
    (folder / SINGLE).write_bytes(len(header).to_bytes(8, "little") + header)
    assert refusal(folder).key == "model.corrupt"


def test_overlapping_tensors_are_refused(folder: Path) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"a": entry, "b": entry}).encode()
    (folder / SINGLE).write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    assert refusal(folder).key == "model.corrupt"


def test_absurd_header_length_is_refused(folder: Path) -> None:
    (folder / SINGLE).write_bytes((2**62).to_bytes(8, "little") + b"{}" * 50)
    assert refusal(folder).key == "model.corrupt"


def test_missing_unexpected_and_misshapen_tensors_are_named_together(folder: Path) -> None:
    tensors = load_file(folder / SINGLE)
    tensors["stranger.weight"] = tensors.pop("model.norm.weight")
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, folder / SINGLE)
    error = refusal(folder)
    assert error.key == "model.tensors_differ"
    assert "model.norm.weight" in error.values["missing"]
    assert "stranger.weight" in error.values["unexpected"]
    assert "up_proj.weight: [3, 3]" in error.values["misshapen"]


def test_missing_shard_is_named(folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    error = refusal(folder)
    assert error.key == "model.shard_missing" and "model-00001-of-00002" in str(error)


@pytest.mark.parametrize("index", ["nonsense", "[]", "{}", '{"weight_map": {"a": "../../secret.safetensors"}}'])
def test_bad_index_is_refused(folder: Path, index: str) -> None:
    (folder / INDEX).write_text(index)
    assert refusal(folder).key == "model.corrupt"


def test_remote_code_is_refused(folder: Path) -> None:
    config = {**CONFIG, "auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    assert refusal(folder).key == "model.remote_code"


def test_quantised_checkpoints_are_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": {"quant_method": "gptq"}}))
    assert refusal(folder).key == "model.quantized"
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tensors = load_file(folder / SINGLE)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    save_file(tensors, folder / SINGLE)
    assert refusal(folder).key == "model.quantized"


@pytest.mark.parametrize("gone", ["vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "model_type"])
def test_config_without_a_needed_key_names_it(folder: Path, gone: str) -> None:
    (folder / "config.json").write_text(json.dumps({k: v for k, v in CONFIG.items() if k != gone}))
    error = refusal(folder)
    assert error.key == "model.config_key_missing" and gone in str(error)


@pytest.mark.parametrize(("key", "given", "expected"), [
    ("hidden_act", "mish", "model.unknown_activation"), ("num_key_value_heads", 3, "model.heads_uneven"),
    ("rope_scaling", {"type": "dynamic", "factor": 2.0}, "model.unknown_rope"),
    ("layer_types", ["chunked_attention"] * 2, "model.unknown_layer_type"),
])  # fmt: skip
def test_config_beyond_us_is_refused(folder: Path, key: str, given: Any, expected: str) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, key: given}))
    assert refusal(folder).key == expected


def test_folders_without_config_or_weights(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").key == "model.no_config"
    shutil.copy(folder / "config.json", tmp_path / "empty")
    assert refusal(tmp_path / "empty").key == "model.no_weights"
    (folder / "config.json").write_text("{")
    assert refusal(folder).key == "model.corrupt"


def test_unknown_dtype_lists_the_known(folder: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(folder, dtype="int3")
    assert caught.value.key == "model.unknown_dtype" and "bf16" in str(caught.value)


def test_loading_does_not_hold_the_model_twice(folder: Path) -> None:
    """No parameter is a view of the mapped file: rewriting the file must not change the model."""
    model = load_model(folder, dtype="fp32")
    before = model.head_weight.clone()
    content = bytearray((folder / SINGLE).read_bytes())
    content[-4000:] = b"\x7f" * 4000
    with (folder / SINGLE).open("r+b") as file:
        file.write(content)
    assert torch.equal(model.head_weight, before)
