"""Our own rounding beside others': torch's halves, the package gguf's Q8_0, and the noise that rounding draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from danlu.exports.readers.reader import Rounding
from danlu.exports.rounding import round_weights, rounded, rounding_inputs, rounding_of, spacing

KINDS: tuple[Rounding, ...] = ("f32", "f16", "bf16", "q8_0")


def drawn(seed: int, rows: int = 5, width: int = 64, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 10**6), st.sampled_from([1e-4, 1.0, 300.0]), st.integers(1, 5))
@settings(max_examples=60)
def test_q8_0_is_what_the_package_gguf_makes_of_it(seed: int, size: float, num_blocks: int) -> None:
    gguf: Any = pytest.importorskip("gguf", reason="the oracle is the package gguf")
    values = drawn(seed, width=32 * num_blocks, size=size)
    kind = gguf.GGMLQuantizationType.Q8_0
    theirs = gguf.quants.dequantize(gguf.quants.quantize(values.numpy(), kind), kind)
    assert np.array_equal(rounded(values, "q8_0").numpy(), theirs)


def test_a_block_of_zeros_stays_zero_and_odd_rows_lie_in_f16() -> None:
    assert not rounded(torch.zeros(2, 64), "q8_0").any()
    odd = drawn(0, width=40)
    assert torch.equal(rounded(odd, "q8_0"), odd.half().float())


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.sampled_from([0.1, 1.0, 50.0]))
@settings(max_examples=80)
def test_rounding_moves_a_number_by_half_its_spacing_at_most(seed: int, kind: Rounding, size: float) -> None:
    values = drawn(seed, size=size)
    apart = (rounded(values, kind) - values).abs()
    # q8_0's scale is rounded too, after the codes were chosen: by half a unit of 11 bits, up to 127 times
    widest = 127 * 2.0**-11 if kind == "q8_0" else 0.0
    assert bool((apart <= (0.5 + widest) * spacing(values, kind) * 1.0001).all())
    assert torch.equal(rounded(rounded(values, kind), kind), rounded(values, kind)) or kind == "q8_0"


def test_names_of_dtypes() -> None:
    assert [rounding_of(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)] == ["f32", "f16", "bf16"]


def test_matrices_vectors_and_pairs_are_rounded_each_in_its_own_way() -> None:
    layer = nn.Linear(32, 8)
    layer.lora_A = nn.Parameter(drawn(1, 4, 32))
    before = {name: weight.detach().clone() for name, weight in layer.named_parameters()}
    round_weights(layer, "bf16", "f16", "f32")
    after = dict(layer.named_parameters())
    assert torch.equal(after["weight"], before["weight"].bfloat16().float())
    assert torch.equal(after["bias"], before["bias"].half().float())
    assert torch.equal(after["lora_A"], before["lora_A"])


def test_inputs_are_rounded_inside_the_block_only() -> None:
    layer, x = nn.Sequential(nn.Linear(64, 16)), drawn(2)
    plain = layer(x)
    with rounding_inputs(layer, "bf16"):
        assert torch.equal(layer(x), layer[0](rounded(x, "bf16")))
        assert not torch.equal(layer(x), plain)
    assert torch.equal(layer(x), plain)
