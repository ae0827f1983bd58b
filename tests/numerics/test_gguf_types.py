"""The types of a GGUF file: what llama.cpp and the package's own decoder read back, and how far that is from fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danlu.core.errors import ExportError
from danlu.data.sample import Message
from danlu.engines.engine import Question
from danlu.exports.gguf.tensors import QUANTIZE, encode, neighbouring, type_of
from danlu.exports.gguf.write import About, write_model
from llamacpp_kit import CASES, LlamaCpp, engine_of, write_case

gguf = pytest.importorskip("gguf", reason="writing GGUF needs the package gguf")
pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
WIDE = CASES["qwen2"] | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8, "head_dim": 64}
FAR = {"f32": 1e-4, "f16": 5e-2, "bf16": 0.3, "q8_0": 1.0, "q6_k": 2.0, "q5_k_m": 4.0, "q4_k_m": 6.0}
"""Bounds of the mean |Δ log p| of a random model of 8 layers, which multiplies errors; measured about a third of them."""


def decoded(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(tensor.shape)[::-1])
        for tensor in gguf.GGUFReader(path).tensors
    }


def test_every_type_is_read_by_llamacpp_and_finer_ones_are_nearer(tmp_path: Path) -> None:
    engine, contract = engine_of(write_case(tmp_path / "base", WIDE))
    prompt = engine.prompt_ids(Question((Message("user", "出差一天补贴多少?"),)))
    (plain,) = engine.encoder.tokenizer.encode_text("a")
    ours = next(iter(engine.logits([prompt])))[-1].log_softmax(-1)
    sizes, errors = {}, {}
    exact: dict[str, np.ndarray[Any, Any]] = {}
    for quantize in QUANTIZE:
        path = tmp_path / f"{quantize}.gguf"
        write_model(
            engine.model, path, contract=contract, source=tmp_path / "base", about=About("tiny"), quantize=quantize
        )
        found = decoded(path)
        exact = exact or found
        assert found.keys() == exact.keys()
        worst = max(np.abs(found[name] - exact[name]).max() / np.abs(exact[name]).max() for name in exact)
        theirs = LlamaCpp(path).log_probs(prompt, engine.model.spec.vocab_size, plain=plain)
        sizes[quantize], errors[quantize] = path.stat().st_size, (float(worst), float((theirs - ours).abs().mean()))
    for quantize, (_, apart) in errors.items():
        assert apart < FAR[quantize], errors
    weights = [errors[quantize][0] for quantize in ("f32", "f16", "bf16", "q8_0", "q6_k", "q4_k_m")]
    assert weights == sorted(weights) and weights[0] == 0.0, errors
    assert [*sizes.values()][::-1] == sorted([s for q, s in sizes.items()]) or sizes["bf16"] == sizes["f16"]


def test_bf16_and_f16_are_rounded_as_torch_rounds() -> None:
    values = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)) * 1e-3
    assert np.array_equal(
        encode(values, "BF16", "x").view(np.int16), values.to(torch.bfloat16).view(torch.int16).numpy()
    )
    assert np.array_equal(
        encode(values, "BF16", "x"), gguf.quants.quantize(values.numpy(), gguf.GGMLQuantizationType.BF16)
    )


def test_what_fp16_cannot_hold_is_an_error_and_no_infinity() -> None:
    with pytest.raises(ExportError, match="65504"):
        encode(torch.full((2, 2), 7e4), "F16", "blk.0.attn_q.weight")


def test_rows_that_leave_a_rest_get_a_type_they_fit(tmp_path: Path) -> None:
    spec = engine_of(write_case(tmp_path, CASES["qwen2"]))[0].model.spec
    assert type_of("blk.0.ffn_down.weight", (64, 96), spec, "q8_0") == "Q8_0"
    assert type_of("blk.0.ffn_down.weight", (64, 90), spec, "q8_0") == "F16"
    assert type_of("blk.0.attn_k.weight", (64, 96), spec, "q4_k_m") == "Q5_0"
    assert type_of("blk.0.attn_k.bias", (64,), spec, "q4_k_m") == "F32"


def test_rows_change_places_as_llamacpp_pairs_dimensions() -> None:
    rows = torch.arange(8.0)[:, None]
    assert neighbouring(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_file_that_could_not_be_finished_leaves_nothing(tmp_path: Path) -> None:
    engine, contract = engine_of(write_case(tmp_path / "base", CASES["qwen2"]))
    with torch.no_grad():
        engine.model.get_parameter("model.layers.2.mlp.down_proj.weight")[0, 0] = 1e6
    with pytest.raises(ExportError):
        write_model(
            engine.model, tmp_path / "out" / "m.gguf", contract=contract, source=tmp_path / "base", about=About("t")
        )
    assert not list((tmp_path / "out").iterdir())
