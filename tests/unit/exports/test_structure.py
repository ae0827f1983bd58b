"""Exports in codes are held to their plan to the letter: a header or a tensor that says anything else is refused with
the reason, whatever a model makes of it.

Pains: a header that scales inputs all together, or not at all, moved no answer beyond the format's own rounding; one
that says version 2 of GPTQ was ignored by one program and obeyed by the next.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from danlu.core.files import read_json, write_json
from danlu.exports.calibrated import schemes as calibrated
from danlu.exports.compressed import schemes as compressed
from danlu.exports.compressed.write import write_compressed
from danlu.exports.structure import Layout, check_header, check_layout, config_of, differences, layout_of
from danlu.model.build import load_model
from danlu.model.model import Model
from danlu.model.shards import INDEX, SINGLE
from nearest_codes import write_nearest
from sabotage_kit import make_pupil
from tiny_chat import write_base

KINDS = ("fp8", "int8", "awq", "gptq")
BF16 = torch.bfloat16
DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    model = load_model(write_base(tmp_path_factory.mktemp("base")), dtype="fp32")
    model.config["torch_dtype"] = "bfloat16"
    return model


def write(model: Model, kind: str, folder: Path) -> tuple[dict[str, Any], Layout]:
    """A right folder, and its plan."""
    if kind in compressed.SCHEMES:
        eight = compressed.SCHEMES[kind]
        write_compressed(model, folder, eight, BF16)
        return config_of(model, BF16, eight.header()), layout_of(
            model, BF16, functools.partial(eight.layout, kept=BF16)
        )
    four = calibrated.SCHEMES[kind]
    write_nearest(model, folder, four, 32)
    return config_of(model, BF16, four.header(32)), layout_of(model, BF16, functools.partial(four.layout, group=32))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_the_plan(kind: str, model: Model, tmp_path: Path) -> None:
    config, layout = write(model, kind, tmp_path)
    assert check_header("file_header", tmp_path, config).verdict == "pass"
    found = check_layout("file_layout", tmp_path, layout)
    assert found.verdict == "pass" and found.numbers["num_tensors"] == len(layout) > 30, found


def test_fused_layers_and_biases_have_their_places(tmp_path: Path) -> None:
    """Phi-3 stacks query, key and value in its files; Qwen 2 has biases beside codes."""
    for family, name, shape in (
        ("phi3", "self_attn.qkv_proj.weight_scale", 1),
        ("qwen2", "self_attn.q_proj.bias", None),
    ):
        engine = make_pupil(family, tmp_path / family).subject.engine
        _, layout = write(engine.model, "int8", tmp_path / f"{family}-int8")
        assert check_layout("file_layout", tmp_path / f"{family}-int8", layout).verdict == "pass"
        entry = layout[f"model.layers.0.{name}"]
        assert entry.dtype == "BF16" and entry.shape[1:] == ((shape,) if shape else ())


@pytest.mark.parametrize(
    ("kind", "spoil", "reason"),
    [
        ("fp8", lambda q: q["config_groups"]["group_0"].update(input_activations=None), "input_activations: null, not {"),
        ("int8", lambda q: q["config_groups"]["group_0"]["input_activations"].update(strategy="tensor"),
         'group_0.input_activations.strategy: "tensor", not "token"'),
        ("fp8", lambda q: q.update(ignore=["lm_head", DOWN]), f'ignore: ["lm_head", "{DOWN}"], not ["lm_head"]'),
        ("int8", lambda q: q["config_groups"]["group_0"]["weights"].update(dynamic=0), "weights.dynamic: 0, not false"),
        ("gptq", lambda q: q.update(checkpoint_format="gptq_v2"), 'checkpoint_format: "gptq_v2", not "gptq"'),
        ("gptq", lambda q: q.pop("desc_act"), "desc_act: is missing, not false"),
        ("awq", lambda q: q.update(rotation="hadamard"), 'rotation: is unknown, "hadamard"'),
        ("awq", lambda q: q.update(modules_to_not_convert=[]), 'modules_to_not_convert: [], not ["lm_head"]'),
    ],
)  # fmt: skip
def test_a_header_that_says_anything_else_is_refused_with_the_field(
    kind: str, spoil: Callable[[dict[str, Any]], Any], reason: str, model: Model, tmp_path: Path
) -> None:
    config, _ = write(model, kind, tmp_path)
    found = read_json(tmp_path / "config.json")
    spoil(found["quantization_config"])
    write_json(tmp_path / "config.json", found)
    check = check_header("file_header", tmp_path, config)
    assert check.verdict == "fail" and check.numbers["num_wrong_fields"] == 1
    assert check.note.startswith("quantization_config.") and reason in check.note, check.note


def test_settings_beside_the_header_count_too(model: Model, tmp_path: Path) -> None:
    config, _ = write(model, "fp8", tmp_path)
    write_json(tmp_path / "config.json", read_json(tmp_path / "config.json") | {"tie_word_embeddings": "no"})
    assert "tie_word_embeddings" in check_header("file_header", tmp_path, config).note


@pytest.mark.parametrize(
    ("kind", "spoil", "reason"),
    [
        ("fp8", lambda t: t.pop(f"{DOWN}.weight_scale"), f"{DOWN}.weight_scale: is missing"),
        ("fp8", lambda t: t.update({f"{DOWN}.input_scale": torch.ones(1)}), f"{DOWN}.input_scale: is foreign"),
        ("int8", lambda t: t.update({f"{DOWN}.weight": t[f"{DOWN}.weight"].float()}), "F32 [64, 128], not I8 [64, 128]"),
        ("int8", lambda t: t.update({f"{DOWN}.weight_scale": t[f"{DOWN}.weight_scale"].T}), "BF16 [1, 64], not BF16 [64, 1]"),
        ("awq", lambda t: t.update({f"{DOWN}.g_idx": torch.zeros(128, dtype=torch.int32)}), f"{DOWN}.g_idx: is foreign"),
        ("gptq", lambda t: t.update({f"{DOWN}.scales": t[f"{DOWN}.scales"].float()}), "F32 [4, 64], not F16 [4, 64]"),
    ],
)  # fmt: skip
def test_a_tensor_that_is_not_in_the_plan_is_refused_with_its_name(
    kind: str, spoil: Callable[[dict[str, Tensor]], Any], reason: str, model: Model, tmp_path: Path
) -> None:
    _, layout = write(model, kind, tmp_path)
    tensors = load_file(tmp_path / SINGLE)
    spoil(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / SINGLE)
    check = check_layout("file_layout", tmp_path, layout)
    assert check.verdict == "fail" and reason in check.note, check.note


def test_a_second_file_of_weights_is_refused(model: Model, tmp_path: Path) -> None:
    """A program that takes every file of weights in a folder would load it."""
    _, layout = write(model, "fp8", tmp_path)
    save_file({"model.norm.weight": torch.zeros(64)}, tmp_path / "other.safetensors")
    check = check_layout("file_layout", tmp_path, layout)
    assert check.numbers["num_stray_files"] == 1 and "other.safetensors: is foreign" in check.note


def test_an_index_that_names_another_file_is_refused(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danlu.exports.compressed.write.SHARD_BYTES", 30_000)
    _, layout = write(model, "fp8", tmp_path)
    index = read_json(tmp_path / INDEX)
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 1 and check_layout("file_layout", tmp_path, layout).verdict == "pass"
    name = next(name for name, file in index["weight_map"].items() if file == files[0])
    index["weight_map"][name] = files[1]
    write_json(tmp_path / INDEX, index)
    check = check_layout("file_layout", tmp_path, layout)
    assert check.numbers["num_misplaced"] == 1 and name in check.note


def test_true_is_not_one_and_all_differences_are_counted() -> None:
    assert list(differences({"a": True}, {"a": 1})) == ["a: true, not 1"]
    assert list(differences({"a": {"b": 1}}, {"a": [1]})) == ['a: {"b": 1}, not [1]']
    assert not list(differences({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2]}}))
    assert len(list(differences({"a": 1, "b": 2}, {"b": 3, "c": 4}))) == 3
