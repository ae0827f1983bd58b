"""The shelf of quantisers, each in a model: what is quantised and what is not, gradients, memory, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from danlu.adapters.full import Full
from danlu.core.errors import DanluError, ModelError
from danlu.model.build import load_model, save_model
from danlu.model.decoder import Decoder
from danlu.model.quantized import (
    cache_bytes,
    drop_dequantized,
    keep_dequantized,
    keep_dequantized_if_room,
    num_params,
    quantization_of,
    quantized_layers,
)
from danlu.model.quantizers import QUANTIZERS
from danlu.model.quantizers.nf4 import NF4Linear
from danlu.model.quantizers.quantizer import QuantizedLinear
from danlu.ops.attention import Bounds
from danlu.ops.nf4 import VALUES, Nested, quantise
from danlu.recipe import Recipe
from danlu.recipe.recipe import InvalidRecipeError
from danlu.training.identity import weights_digest
from progress_kit import Notes
from training_kit import PHI3, QWEN2, tiny_model

KINDS = ("fp8", "int8", "nf4")
ROUNDING = {"fp8": 0.05, "int8": 0.01, "nf4": 0.13}
"""Of a product of normal weights and inputs, in norm: e4m3 on both sides, 127 steps, 16 quantiles."""
BNB = Path(__file__).parents[2] / "numerics" / "fixtures" / "bnb_tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2 with biases, an untied head, widths that are no multiple of 64."""
    home = tmp_path_factory.mktemp("quantizers")
    model = tiny_model(home / "seed", QWEN2 | {"tie_word_embeddings": False, "intermediate_size": 80})
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    save_model(model, home / "base")
    return home / "base"


def hidden(model: Decoder) -> torch.Tensor:
    bounds = Bounds.of([9, 4])
    ids = torch.arange(5, 18)
    return model.hidden(ids, bounds.positions("cpu"), bounds)


def layer(kind: str, num_rows: int, num_columns: int, *, has_bias: bool = False) -> tuple[QuantizedLinear, nn.Linear]:
    """A quantised layer and the one it was made of."""
    plain = nn.Linear(num_columns, num_rows, bias=has_bias)
    quantized = QUANTIZERS.load(kind).in_place_of(plain, torch.float32)
    quantized.bias = plain.bias
    quantized.take(plain.weight.detach())
    return quantized.requires_grad_(False), plain


def test_the_knob_names_what_stands_on_the_shelf() -> None:
    assert tuple(QUANTIZERS.names()) == KINDS
    for kind in KINDS:
        assert (
            Recipe.from_tree(
                {"name": "a", "data": {"sources": ["x.jsonl"]}, "model": {"quantize": kind}}
            ).model.quantize
            == kind
        )
    with pytest.raises(InvalidRecipeError, match="adapter"):
        Recipe.from_tree(
            {"name": "a", "data": {"sources": ["x.jsonl"]}, "model": {"quantize": "nf4"}, "adapter": "full"}
        )
    with pytest.raises(InvalidRecipeError, match=r"model\.quantize"):
        Recipe.from_tree({"name": "a", "data": {"sources": ["x.jsonl"]}, "load_in_4bit": True})


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_quantised_and_the_rest_is_whole(folder: Path, kind: Any) -> None:
    model, whole = load_model(folder, dtype="fp32", quantize=kind), load_model(folder, dtype="fp32")
    assert isinstance(model, Decoder)
    assert quantization_of(model) == kind and quantization_of(whole) == "none"
    assert {type(m) for n, m in model.named_modules() if n.endswith("_proj")} == {QUANTIZERS.load(kind)}
    assert type(model.lm_head) is nn.Linear and len(quantized_layers(model)) == 14
    own, theirs = dict(model.named_parameters()), dict(whole.named_parameters())
    assert all(torch.equal(own[name], theirs[name]) for name in own), "embedding, head, norms and biases"
    assert num_params(model) == num_params(whole) == sum(p.numel() for p in whole.parameters())
    assert model.digest == whole.digest, "the same files"
    apart = (hidden(model) - hidden(whole)).norm() / hidden(whole).norm()
    assert 0 < apart < 5 * ROUNDING[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_random_weights_are_those_of_the_seed_quantised(folder: Path, kind: Any) -> None:
    model = load_model(folder, dtype="fp32", init="random", seed=3, quantize=kind)
    whole = load_model(folder, dtype="fp32", init="random", seed=3)
    weight = whole.get_submodule("model.layers.1.mlp.up_proj").weight
    fresh, _ = layer(kind, *weight.shape)
    fresh.take(weight.detach())
    assert torch.equal(model.get_submodule("model.layers.1.mlp.up_proj").dequantized(), fresh.dequantized())


@settings(max_examples=25)
@given(st.sampled_from(KINDS), st.integers(1, 40), st.integers(1, 70), st.booleans(), st.integers(1, 5))
def test_the_plain_path_multiplies_with_the_dequantised_weight(
    kind: str, num_rows: int, num_columns: int, has_bias: bool, num_tokens: int
) -> None:
    """Forward and gradient of the input; fp8 rounds inputs and gradients as well."""
    quantized, _ = layer(kind, num_rows, num_columns, has_bias=has_bias)
    weight = quantized.dequantized(dtype=torch.float32)
    x = torch.randn(2, num_tokens, num_columns, requires_grad=True)
    grad = torch.randn(2, num_tokens, num_rows)
    y = quantized(x)
    (dx,) = torch.autograd.grad(y, x, grad)
    truth = x.detach() @ weight.T + (quantized.bias if has_bias else 0)
    dx_truth = grad @ weight
    size, dx_size = x.detach().abs() @ weight.abs().T + 1, grad.abs() @ weight.abs()
    slack = 2**-3.9 if kind == "fp8" else 1e-5
    assert ((y - truth).abs() <= slack * size).all()
    assert (
        (dx - dx_truth).abs() <= slack * dx_size + slack * grad.abs().amax(-1, keepdim=True) * weight.abs().amax()
    ).all()
    room = torch.full((num_rows + 1, num_columns + 3), float("nan"))
    assert torch.equal(quantized.dequantized(room[:num_rows, :num_columns]), weight)
    assert room[num_rows].isnan().all() and room[:, num_columns:].isnan().all()


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_is_of_the_size_that_it_should_be(kind: str) -> None:
    quantized, plain = layer(kind, 256, 512)
    torch.nn.init.normal_(plain.weight)
    quantized.take(plain.weight.detach())
    x = torch.randn(64, 512)
    ratio = float(((quantized(x) - plain(x)).norm() / plain(x).norm()).detach())
    assert ROUNDING[kind] / 3 < ratio < ROUNDING[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_keeping_the_dequantised_weights_changes_nothing(folder: Path, kind: Any) -> None:
    model = load_model(folder, dtype="bf16", quantize=kind)
    assert isinstance(model, Decoder)
    before, room = hidden(model), cache_bytes(model)
    elements = sum(one.in_features * one.out_features for one in quantized_layers(model))
    assert room == (0 if kind == "fp8" else 2 * elements)
    assert not keep_dequantized_if_room(model, room - 1)
    keep_dequantized(model)
    assert {one.has_cache for one in quantized_layers(model)} == {kind != "fp8"}
    assert torch.equal(hidden(model), before)
    drop_dequantized(model)
    assert not any(one.has_cache for one in quantized_layers(model)) and torch.equal(hidden(model), before)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_take_what_they_should_and_keep_their_dtype(kind: str) -> None:
    quantized, _ = layer(kind, 512, 1024)
    bits = {"fp8": 8, "int8": 8, "nf4": 4.127}[kind]
    assert quantized.num_bytes == pytest.approx(512 * 1024 * bits / 8, rel=0.01)
    before = quantized.dequantized(dtype=torch.float32)
    quantized.to(torch.bfloat16)  # a model's dtype is of its parameters; scales in bf16 would be other weights
    assert torch.equal(quantized.dequantized(dtype=torch.float32), before)


def test_one_weight_at_a_time_is_whole_while_loading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is handed to be quantised is quantised before the next tensor is read."""
    order: list[str] = []
    take, read = NF4Linear.take, load_model.__globals__["weights"].Stored.read
    monkeypatch.setattr(NF4Linear, "take", lambda self, weight: (order.append("take"), take(self, weight))[1])
    monkeypatch.setattr(
        load_model.__globals__["weights"].Stored, "read", lambda self, name: (order.append("read"), read(self, name))[1]
    )
    load_model(folder, dtype="bf16", quantize="nf4")
    assert order.count("take") == 14
    assert all(one != "take" or order[at - 1] == "read" for at, one in enumerate(order))


def test_what_needs_the_weights_says_so(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, dtype="fp32", quantize="int8")
    with pytest.raises(ModelError, match="int8"):
        save_model(model, tmp_path / "out")
    with pytest.raises(ModelError, match="int8"):
        Full().attach(model)
    with pytest.raises(DanluError, match="gpt2"):
        tiny = {"model_type": "gpt2", "vocab_size": 96, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
        (tmp_path / "gpt2").mkdir()
        (tmp_path / "gpt2" / "config.json").write_text(json.dumps(tiny))
        load_model(tmp_path / "gpt2", init="random", quantize="nf4")


# ---- checkpoints that bitsandbytes has quantised (tests/numerics/test_nf4_bnb.py holds their numbers)


def changed(tmp_path: Path, config: dict[str, Any] | None = None, drop: str = "", **settings_: Any) -> Path:
    """The recorded checkpoint with other settings, or without a part."""
    shutil.copytree(BNB, tmp_path / "bnb")
    path = tmp_path / "bnb" / "config.json"
    stored = json.loads(path.read_text())
    stored["quantization_config"] |= settings_
    path.write_text(json.dumps(stored | (config or {})))
    if drop:
        tensors = load_file(tmp_path / "bnb" / "model.safetensors")
        save_file(
            {name: t for name, t in tensors.items() if not name.endswith(drop)}, tmp_path / "bnb" / "model.safetensors"
        )
    return tmp_path / "bnb"


@pytest.mark.parametrize(
    ("settings_", "said"),
    [({"bnb_4bit_quant_type": "fp4"}, "fp4"), ({"load_in_8bit": True}, "8bit"), ({"quant_method": "gptq"}, "gptq")],
)
def test_other_quantisations_are_refused_by_name(tmp_path: Path, settings_: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        load_model(changed(tmp_path, **settings_))
    assert "config.json" in caught.value.text


@pytest.mark.parametrize("part", [".absmax", ".nested_absmax", ".quant_map", ".nested_quant_map"])
def test_a_missing_part_is_named(tmp_path: Path, part: str) -> None:
    with pytest.raises(ModelError, match=part.replace(".", r"\.")):
        load_model(changed(tmp_path, drop=f"up_proj.weight{part}"), dtype="fp32", quantize="nf4")


@pytest.mark.parametrize(
    ("told", "said"),
    [({"quant_type": "fp4"}, "fp4"), ({"shape": [1, 2, 3]}, "up_proj"), ({"blocksize": 0}, "blocksize"),
     ({"blocksize": 48}, "blocksize"), ({"blocksize": 8192}, "blocksize"), ({"nested_offset": None}, "up_proj"),
     ({"shape": [128, 63]}, "sizes"), ({"nested_blocksize": 0}, "nested_blocksize")],
)  # fmt: skip
def test_a_broken_description_is_refused(tmp_path: Path, told: dict[str, Any], said: str) -> None:
    folder = changed(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    key = next(name for name in tensors if "up_proj" in name and "quant_state" in name)
    state = json.loads(bytes(tensors[key].tolist())) | told
    tensors[key] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=said):
        load_model(folder, dtype="fp32", quantize="nf4")


def test_other_codes_are_other_weights_to_a_training(folder: Path) -> None:
    """A run on int8 does not go on from a checkpoint of NF4."""
    digests = {kind: weights_digest(load_model(folder, dtype="fp32", quantize=kind)) for kind in ("none", *KINDS)}  # type: ignore[arg-type]
    assert len(set(digests.values())) == 4
    assert digests["nf4"] == weights_digest(load_model(folder, dtype="fp32", quantize="nf4"))


def test_nf4_does_not_become_another_quantisation(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="NF4 already"):
        load_model(BNB, quantize="int8")


def test_dequantising_a_base_that_came_quantised_is_told_once() -> None:
    told, quiet = Notes(), Notes()
    load_model(BNB, dtype="fp32", progress=told)
    load_model(BNB, dtype="fp32", quantize="nf4", progress=quiet)
    assert len(told.said) == 1 and "model.quantize=nf4" in told.said[0] and not quiet.said


def test_a_prequantised_base_is_saved_dequantised(tmp_path: Path) -> None:
    """What a merge on such a base writes is an ordinary checkpoint."""
    model = load_model(BNB, dtype="fp32")
    save_model(model, tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    saved = load_model(tmp_path / "out", dtype="fp32")
    kept = load_model(BNB, dtype="fp32", quantize="nf4")
    packed = {name: one for name, one in kept.named_modules() if isinstance(one, NF4Linear)}
    assert len(packed) == 6
    for name, one in packed.items():
        assert torch.equal(saved.get_parameter(f"{name}.weight"), one.dequantized())


def test_a_fused_weight_in_nf4_comes_apart(tmp_path: Path) -> None:
    """Phi-3 stacks q, k and v: nested scales of the parts are held in fp32, with the same values."""
    config = PHI3 | {"hidden_size": 64, "intermediate_size": 128, "tie_word_embeddings": False}
    save_model(tiny_model(tmp_path / "seed", config), tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if "_proj" not in name:
            stored[name] = tensor
            continue
        packed = quantise(tensor)
        nested = packed.absmax
        assert isinstance(nested, Nested)
        state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": list(tensor.shape),
                 "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": nested.offset.item()}  # fmt: skip
        stored |= {
            name: packed.codes[:, None], f"{name}.absmax": nested.codes, f"{name}.nested_absmax": nested.scale,
            f"{name}.nested_quant_map": nested.levels.clone(),
            f"{name}.quant_map": torch.tensor(VALUES),
            f"{name}.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
        }  # fmt: skip
    save_file(stored, tmp_path / "base" / "model.safetensors")
    config |= {
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    }
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    kept, whole = (load_model(tmp_path / "base", dtype="fp32", quantize=kind) for kind in ("nf4", "none"))
    assert isinstance(kept, Decoder) and isinstance(whole, Decoder)
    assert len(quantized_layers(kept)) == 14 and not quantized_layers(whole)
    torch.testing.assert_close(hidden(kept), hidden(whole), rtol=1e-5, atol=1e-6)
    key = kept.get_submodule("model.layers.0.self_attn.k_proj")
    assert isinstance(key, NF4Linear) and torch.equal(
        key.dequantized(), whole.get_submodule("model.layers.0.self_attn.k_proj").weight
    )
