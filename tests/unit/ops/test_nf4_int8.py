"""NF4 and int8: nearest codes, every size, room that the caller brings; the kernels equal the references bit for bit.

`tests/numerics/test_nf4_bnb.py` holds NF4 to bitsandbytes. The interpreter cuts bf16 off where a GPU rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danlu.ops import int8, nf4
from danlu.ops.kernels import IS_INTERPRETED

SIZES = [(96, 128), (160, 192), (100, 96), (6, 40), (7, 13), (1, 1), (3, 5), (64, 64), (130, 256)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def draw(num_rows: int, num_columns: int, seed: int = 0) -> Tensor:
    """Outliers and zeros among them."""
    weight = torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(seed)) * 0.05
    weight[num_rows // 2] *= 30
    weight[num_rows // 3] = 0
    return weight


def assert_written(got: Tensor, exact: Tensor) -> None:
    """`exact` in fp32, rounded once."""
    if IS_INTERPRETED and got.dtype == torch.bfloat16:
        torch.testing.assert_close(got.float(), exact, rtol=2**-7, atol=1e-30)
    else:
        assert torch.equal(got, exact.to(got.dtype))


def room(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Leading columns of a wider buffer, the rest of which is poison."""
    buffer = torch.full((weight.shape[0] + 2, weight.shape[1] + 8), float("nan"), dtype=dtype, device=weight.device)
    return buffer[: weight.shape[0], : weight.shape[1]]


def assert_poison_left(out: Tensor) -> None:
    buffer = out._base
    assert buffer is not None
    rows, columns = out.shape
    assert buffer[rows:].isnan().all() and buffer[:, columns:].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("is_double", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_nf4_fills_strided_rows(size: tuple[int, int], is_double: bool, dtype: torch.dtype, device: str) -> None:
    weight = draw(*size).to(device)
    packed = nf4.quantise(weight, is_double=is_double)
    out = room(weight, dtype)
    assert nf4.dequantise(packed, out) is out
    assert_written(out, nf4.reference_dequantise(packed))
    assert_poison_left(out)
    assert torch.equal(nf4.dequantise(packed, dtype=dtype), out)


@pytest.mark.parametrize("block", [32, 128, 4096])
def test_nf4_of_other_block_sizes(block: int, device: str) -> None:
    """Checkpoints may have them; we make 64."""
    num = 60 * 130
    absmax = torch.rand(-(-num // block), device=device)
    packed = nf4.NF4(torch.randint(0, 256, (num // 2,), device=device).byte(), absmax, (60, 130), block)
    assert_written(nf4.dequantise(packed, dtype=torch.float32), nf4.reference_dequantise(packed))


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 1000), st.sampled_from(DTYPES))
def test_nf4_takes_the_nearest_value(num_rows: int, num_columns: int, seed: int, dtype: torch.dtype) -> None:
    weight = draw(num_rows, num_columns, seed).to(dtype)
    packed = nf4.quantise(weight, is_double=False)
    flat, num = weight.float().view(-1), weight.numel()
    absmax = nf4.absmax_of(packed).repeat_interleave(64)[:num]
    choices = torch.tensor(nf4.VALUES) * absmax[:, None]
    best = (choices - flat[:, None]).abs().amin(-1)
    ours = (nf4.reference_dequantise(packed).view(-1) - flat).abs()
    assert (ours <= best + 1e-6 * absmax).all()
    assert torch.equal(nf4.quantise(nf4.reference_dequantise(packed), is_double=False).codes[: num // 2],
                       packed.codes[: num // 2])  # fmt: skip


def test_nf4_in_pieces_is_nf4_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = draw(300, 128)
    whole = nf4.quantise(weight)
    monkeypatch.setattr(nf4, "CHUNK", 64 * 256)
    pieces = nf4.quantise(weight)
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors(), pieces.tensors(), strict=True))


def test_nf4_double_quantisation_moves_scales_by_little() -> None:
    weight = draw(300, 128)
    once, twice = nf4.absmax_of(nf4.quantise(weight, is_double=False)), nf4.absmax_of(nf4.quantise(weight))
    assert (once - twice).abs().max() < 0.016 * (once - once.mean()).abs().max()
    assert nf4.quantise(weight).num_bytes < 300 * 128 * 4.2 / 8 + 2048


def test_nf4_cut_along_rows_keeps_its_values() -> None:
    """What a checkpoint stacks (q, k, v in one weight) comes apart."""
    packed = nf4.quantise(draw(60, 192))
    parts = nf4.rows_of(packed, [32, 8, 20])
    values = torch.cat([nf4.reference_dequantise(part) for part in parts])
    assert torch.equal(values, nf4.reference_dequantise(packed))


def test_nf4_moves_as_a_copy() -> None:
    packed = nf4.quantise(draw(8, 64))
    moved = packed.to("cpu")
    packed.codes.zero_()
    assert moved.codes.any() and all(
        a.data_ptr() != b.data_ptr() for a, b in zip(moved.tensors(), packed.tensors(), strict=True)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_int8_fills_strided_rows(size: tuple[int, int], dtype: torch.dtype, device: str) -> None:
    weight = draw(*size).to(device)
    packed = int8.quantise(weight)
    out = room(weight, dtype)
    assert int8.dequantise(packed, out) is out
    exact = packed.codes.float() * packed.scale[:, None]
    assert_written(out, exact)
    assert_poison_left(out)
    assert ((exact - weight).abs() <= packed.scale[:, None] * 0.5001).all(), "the nearest of 255 steps"
    assert (packed.codes.abs().amax(-1) == (weight.abs().amax(-1) > 0) * 127).all(), "the largest is kept"


def test_the_kernels_do_the_same(through_the_interpreter: Callable[[], Any]) -> None:
    through_the_interpreter()
