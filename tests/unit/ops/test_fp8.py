"""FP8: codes and scales against the definition, products both ways against fp64, fused casts against casts apart.

Tolerances: e4m3 errs by at most 2^-4 of a value (half a unit of 3 bits), by 2.7 % on average over a binade; a product of
two rounded operands of random sign by sqrt(2) of that, so 5 % in norm is a bound that a lost scale would break.
A norm that writes codes sums a row's squares in another order than the plain norm, because the compiler lays rows out
for the codes' stores (16 to a thread instead of 4 or 8): on a GPU the two are held to two units in fp32's last place.
Triton's interpreter does not carry when it rounds to e4m3 and loses what is not a number: there codes are compared where
nothing is rounded, and with those of another kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.ops import fp8
from danlu.ops.fp8 import E4M3, FP8, product, product_back, quantise_rows, reference_quantise_rows
from danlu.ops.fp8_rows import (
    gated_backward_fp8_,
    gated_backward_low_rank_fp8_,
    gated_forward_fp8,
    norm_backward_fp8,
    norm_forward_fp8,
)
from danlu.ops.gated import gated_backward_, gated_forward
from danlu.ops.kernels import IS_INTERPRETED
from danlu.ops.rms_norm import norm_backward, norm_forward

DTYPES = [torch.float32, torch.bfloat16]
WIDTHS = [16, 96, 300, 4096, 5000]


def dequantise_rows(codes_TK: Tensor, scale_T: Tensor) -> Tensor:
    """What the codes stand for, in fp32."""
    return codes_TK.float() * scale_T[:, None]


def rows(num_rows: int, width: int, dtype: torch.dtype, device: str, seed: int = 0) -> Tensor:
    """Leading columns of a wider buffer, of many magnitudes."""
    drawn = torch.randn(num_rows, width + 16, generator=torch.Generator().manual_seed(seed))
    drawn *= torch.logspace(-4, 2, num_rows)[:, None]
    return drawn.to(device, dtype)[:, :width]


def powers(width: int, device: str) -> Tensor:
    exponents = torch.randint(-12, 3, (width,), generator=torch.Generator().manual_seed(width))
    return torch.ldexp(torch.ones(width), exponents).to(device, torch.bfloat16)


def relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("has_columns", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
def test_rows_use_the_whole_range(width: int, has_columns: bool, dtype: torch.dtype, device: str) -> None:
    x, columns = rows(5, width, dtype, device), powers(width, device) if has_columns else None
    codes, scale = quantise_rows(x, columns=columns)
    wide = x.float() if columns is None else x.float() * columns.float()
    assert torch.equal(scale.cpu(), wide.cpu().abs().amax(-1) / 448), "divided exactly, as a CPU does"
    reference, worth = reference_quantise_rows(x, columns=columns)
    assert torch.equal(scale, worth)
    if not IS_INTERPRETED:
        assert torch.equal(codes.view(torch.uint8), reference.view(torch.uint8))
    assert (reference.float().abs().amax(-1) == 448).all()
    bound = wide.abs() * 2**-4 + scale[:, None] * 2**-10  # half of the least step below the normal numbers
    assert ((dequantise_rows(reference, scale) - wide).abs() <= bound * 1.0001).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_exact_stays_exact(width: int, device: str) -> None:
    """Codes times a power of two come back as they were: also where the interpreter rounds wrongly."""
    wanted = torch.randint(0, 127, (6, width), generator=torch.Generator().manual_seed(1)).byte()
    wanted[:, width // 2] = 126  # 448
    wanted = wanted.view(E4M3).to(device)
    x = wanted.float() * torch.ldexp(torch.ones(6), torch.arange(-9, 3, 2)).to(device)[:, None]
    codes, scale = quantise_rows(x)
    assert torch.equal(codes.float(), wanted.float()) and torch.equal(dequantise_rows(codes, scale), x)
    columns = powers(width, device)
    again, scale = quantise_rows((x / columns.float()).contiguous(), columns=columns)
    assert torch.equal(again.float(), wanted.float())


def test_zero_rows_and_broken_rows(device: str) -> None:
    x = torch.zeros(3, 64, device=device)
    x[1, 5], x[2, 3:] = float("nan"), 2.0
    codes, scale = quantise_rows(x)
    assert not codes[0].float().any() and scale.isfinite()[0]
    assert IS_INTERPRETED or dequantise_rows(codes, scale)[1].isnan().any()
    assert dequantise_rows(codes, scale)[2, 3:].eq(2).all(), "a broken row spoils itself alone"
    empty, none = quantise_rows(torch.zeros(0, 64, device=device))
    assert empty.shape == (0, 64) and none.shape == (0,)


def weight(num_rows: int, num_columns: int, device: str) -> Tensor:
    drawn = torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(3)) * 0.02
    drawn[::7] *= 8
    drawn[num_rows // 2] = 0
    return drawn.to(device)


def test_a_weight_keeps_its_channels_apart(device: str) -> None:
    exact = weight(96, 160, device)
    packed = fp8.quantise(exact.bfloat16())
    exponents = torch.frexp(packed.scale).mantissa
    assert (exponents == 0.5).all(), "powers of two"
    codes = packed.codes.float().abs().amax(-1)
    assert ((codes > 224 * 0.96) | (codes == 0)).all() and (codes <= 448).all()
    values = fp8.dequantise(packed, dtype=torch.float32)
    assert ((values - exact).abs() <= exact.abs() * 0.07 + packed.scale[:, None] * 2**-9).all()
    assert torch.equal(fp8.dequantise(packed).float(), values), "exact in bf16"
    out = torch.full((98, 168), float("nan"), device=device)
    assert (
        torch.equal(fp8.dequantise(packed, out[:96, :160]), values)
        and out[96:].isnan().all()
        and out[:, 160:].isnan().all()
    )


def test_stacked_weights_come_apart_again(device: str) -> None:
    parts = [fp8.quantise(weight(rows_, 64, device)) for rows_ in (32, 16, 16)]
    whole = fp8.stack(parts)
    for part, view in zip(parts, fp8.unstack(whole, [32, 16, 16]), strict=True):
        assert torch.equal(part.codes.float(), view.codes.float()) and torch.equal(part.scale, view.scale)
        assert view.codes.data_ptr() >= whole.codes.data_ptr() and view.codes.is_contiguous()
    turned = fp8.with_turned(whole)
    assert turned.turned is not None and torch.equal(turned.turned.float(), whole.codes.float().t())
    assert turned.turned.is_contiguous() and turned.num_bytes > 1.9 * whole.num_bytes


@pytest.mark.parametrize("way", ["emulated", None])
@pytest.mark.parametrize("num_tokens", [1, 33, 0])
def test_products_both_ways(num_tokens: int, way: Any, device: str) -> None:
    dense = weight(96, 160, device)
    packed, bias = fp8.quantise(dense), torch.randn(96, device=device)
    for kept in (packed, fp8.with_turned(packed)):
        x = rows(num_tokens, 160, torch.bfloat16, device, seed=4)
        out = product(*quantise_rows(x), kept, bias_N=bias.bfloat16(), way=way)
        assert out.shape == (num_tokens, 96) and out.dtype == torch.bfloat16
        grad = rows(num_tokens, 96, torch.bfloat16, device, seed=5)
        dx = product_back(*quantise_rows(grad, columns=kept.columns), kept, way=way)
        assert dx.shape == (num_tokens, 160) and dx.dtype == torch.bfloat16
        if num_tokens and not IS_INTERPRETED:
            assert relative(out, x.double() @ dense.double().t() + bias.bfloat16().double()) < 0.05
            assert relative(dx, grad.double() @ dense.double()) < 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU's product against the emulation")
@pytest.mark.parametrize("way", ["rows", "tensor"])
def test_the_device_multiplies_as_emulated(way: Any) -> None:
    """Same codes: apart are only sums in another precision and a rounding to bf16 or two."""
    best = fp8.way_on(torch.device("cuda", 0))
    if best == "emulated" or (way, best) == ("rows", "tensor"):
        pytest.skip("this card has no such fp8 products")
    packed = fp8.with_turned(fp8.quantise(weight(512, 1024, "cuda")))
    x, grad = rows(257, 1024, torch.bfloat16, "cuda"), rows(257, 512, torch.bfloat16, "cuda", seed=1)
    ours, truth = (product(*quantise_rows(x), packed, way=each) for each in (way, "emulated"))
    assert relative(ours, truth.double()) < 5e-3
    back = quantise_rows(grad, columns=packed.columns)
    truth = product_back(*back, packed, way="emulated").double()
    assert relative(product_back(*back, packed, way=way), truth) < 5e-3
    assert relative(product_back(*back, packed, way=way, is_fast=True), truth) < 5e-3


def test_odd_shapes_are_emulated(device: str) -> None:
    packed: FP8 = fp8.quantise(weight(20, 24, device))
    assert product(*quantise_rows(torch.ones(3, 24, device=device)), packed).shape == (3, 20)


# ---- fused casts: the same numbers as the op and then the cast


def assert_same_codes(ours: tuple[Tensor, Tensor], apart: tuple[Tensor, Tensor]) -> None:
    """Equal; on a GPU a rare last bit of a sum may fall otherwise in another kernel."""
    assert torch.allclose(ours[1], apart[1], rtol=2**-7 if ours[0].is_cuda else 0)
    num_differing = int((ours[0].float() != apart[0].float()).sum())
    assert num_differing <= (2e-3 if ours[0].is_cuda else 0) * ours[0].numel()


def assert_close_in_the_last_bits(ours: Tensor, apart: Tensor) -> None:
    """Equal; on a GPU apart by two units of fp32's last place and two roundings, which now and then carry a 16-bit value
    to its neighbour, twice where it is rounded twice."""
    if not ours.is_cuda:
        assert torch.equal(ours, apart)
        return
    bound = 2**-21 if ours.dtype == torch.float32 else 2**-6
    assert ((ours.double() - apart.double()).abs() <= apart.double().abs() * bound).all()
    assert ours.dtype == torch.float32 or int((ours != apart).sum()) <= 1 + 2e-3 * ours.numel()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize(("num_rows", "width"), [(9, 384), (2, 3584), (5, 96), (1, 5), (0, 64)])
def test_norms_write_codes(num_rows: int, width: int, offset: float, dtype: torch.dtype, device: str) -> None:
    x, grad, through = (rows(num_rows, width, dtype, device, seed) for seed in range(3))
    factor, columns = (torch.rand(width, device=device) + 0.5).to(dtype), powers(width, device)
    normed, inverse = norm_forward(x, factor, 1e-6, offset)
    out = torch.empty(num_rows, width + 8, dtype=dtype, device=device)[:, :width]
    *ours, inverse_too = norm_forward_fp8(x, factor, 1e-6, offset, out_TD=out)
    assert_close_in_the_last_bits(inverse_too, inverse)
    assert_close_in_the_last_bits(out, normed)
    assert_same_codes((ours[0], ours[1]), quantise_rows(normed))
    assert_same_codes(norm_forward_fp8(x, factor, 1e-6, offset)[:2], quantise_rows(normed))
    total, total_too = torch.empty_like(x), torch.empty_like(x)
    normed, inverse = norm_forward(x, factor, 1e-6, offset, add_TD=through, sum_TD=total)
    *ours, inverse_too = norm_forward_fp8(x, factor, 1e-6, offset, out_TD=out, add_TD=through, sum_TD=total_too)
    assert torch.equal(total, total_too), "what is normed"
    assert_close_in_the_last_bits(inverse_too, inverse)
    assert_same_codes((ours[0], ours[1]), quantise_rows(out))
    for beside in (None, through):
        dx = norm_backward(grad, x, factor, inverse, offset, through_TD=beside)
        again, *ours = norm_backward_fp8(grad, x, factor, inverse, offset, columns_D=columns, through_TD=beside)
        torch.testing.assert_close(again, dx, rtol=2**-7 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
        assert_same_codes((ours[0], ours[1]), quantise_rows(again, columns=columns))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu", "relu"])
@pytest.mark.parametrize(("num_rows", "width"), [(7, 96), (2, 5000), (3, 64), (0, 64)])
def test_the_gate_writes_codes(num_rows: int, width: int, activation: Any, dtype: torch.dtype, device: str) -> None:
    gate_up, grad = rows(num_rows, 2 * width, dtype, device), rows(num_rows, width, dtype, device, seed=1)
    columns = powers(2 * width, device)
    out = torch.empty(num_rows, width + 8, dtype=dtype, device=device)[:, :width]
    product_ = gated_forward(gate_up, activation)
    assert_same_codes(gated_forward_fp8(gate_up, activation, out_TF=out), quantise_rows(product_))
    assert torch.equal(out, product_)
    assert_same_codes(gated_forward_fp8(gate_up, activation), quantise_rows(product_))
    ours, theirs = (gate_up.clone(), grad.clone()), (gate_up.clone(), grad.clone())
    codes = gated_backward_fp8_(ours[1], ours[0], activation, columns_E=columns)
    gated_backward_(theirs[1], theirs[0], activation)
    torch.testing.assert_close(ours[0], theirs[0], rtol=2**-7 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
    assert torch.equal(ours[1], theirs[1]), "the product that the forward made"
    assert_same_codes(codes, quantise_rows(ours[0], columns=columns))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
@pytest.mark.parametrize(("num_rows", "width", "rank"), [(7, 96, 4), (37, 300, 16), (64, 520, 8), (0, 64, 4)])
def test_the_gate_writes_codes_beside_a_pair(
    num_rows: int, width: int, rank: int, dtype: torch.dtype, device: str
) -> None:
    if dtype == torch.bfloat16 and IS_INTERPRETED:
        pytest.skip("the interpreter multiplies bf16 as integers")
    gate_up, grad = 0.05 * rows(num_rows, 2 * width, dtype, device), 0.05 * rows(num_rows, width, dtype, device, seed=1)
    columns, ds = powers(2 * width, device), rows(num_rows, rank, dtype, device, seed=2)
    ours, theirs = (gate_up.clone(), torch.ones(rank, width, device=device)), (gate_up.clone(), grad.clone())
    codes = gated_backward_low_rank_fp8_(grad.clone(), ours[0], "silu", ds, ours[1], columns_E=columns)
    bound = 1e-5 if dtype == torch.float32 else 2**-7  # a CPU sums the pair's product in the dtype of the rows
    gated_backward_(theirs[1], theirs[0], "silu")
    torch.testing.assert_close(ours[0], theirs[0], rtol=bound, atol=1e-6)
    exact = 1 + ds.double().T @ theirs[1].double()
    torch.testing.assert_close(ours[1].double(), exact, rtol=bound, atol=bound * float(exact.abs().max()))
    assert_same_codes(codes, quantise_rows(ours[0], columns=columns))


def test_the_kernels_do_the_same(through_the_interpreter: Callable[[], Any]) -> None:
    through_the_interpreter()
