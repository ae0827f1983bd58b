"""The fast attention paths against the loop that a reader can check. fp64, tolerance 1e-10, forward and backward."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danlu.ops.attention import Bounds, attention, padded_attention, reference_attention, varlen_attention
from danlu.ops.attention.padded import groups_of

DOCUMENTS = [(5,), (3, 3, 3), (7, 1, 20, 0, 3), (1,), (0, 4), (200, 3, 90, 64, 150)]
VARIANTS = [{}, {"window": 4}, {"softcap": 1.5}, {"window": 3, "softcap": 0.7}, {"window": 1}, {"window": 1000}]


def make(lengths: tuple[int, ...], heads: int = 4, kv_heads: int = 2, size: int = 8, **options: object) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths) + heads)
    options = {"dtype": torch.float64, **options}
    shapes = [(sum(lengths), n, size) for n in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=generator, **options).requires_grad_() for shape in shapes]  # type: ignore[call-overload]


@pytest.mark.parametrize("lengths", DOCUMENTS, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_padded_equals_reference(lengths: tuple[int, ...], variant: dict[str, float]) -> None:
    bounds, inputs = Bounds.of(lengths), make(lengths)
    truth = reference_attention(*inputs, bounds, scale=0.3, **variant)
    ours = padded_attention(*inputs, bounds, scale=0.3, **variant)
    torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-10)
    upstream = torch.randn_like(truth)
    expected = torch.autograd.grad(truth, inputs, upstream)
    for got, want in zip(torch.autograd.grad(ours, inputs, upstream), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_no_token_at_all() -> None:
    inputs = make((0,))
    out = attention(*inputs, Bounds.of((0, 0)), scale=0.3)
    out.sum().backward()
    assert out.shape == (0, 4, 8)


@settings(max_examples=40)
@given(lengths=st.lists(st.integers(0, 150), min_size=1, max_size=7), window=st.none() | st.integers(1, 30))
def test_padded_equals_reference_for_any_documents(lengths: list[int], window: int | None) -> None:
    bounds, inputs = Bounds.of(lengths), make(tuple(lengths), heads=2, kv_heads=1, size=4)
    truth = reference_attention(*inputs, bounds, scale=0.5, window=window)
    torch.testing.assert_close(
        padded_attention(*inputs, bounds, scale=0.5, window=window), truth, rtol=1e-10, atol=1e-10
    )


def test_order_of_documents_does_not_matter() -> None:
    q, k, v = make((70, 2, 130))
    parts = [x.split((70, 2, 130)) for x in (q, k, v)]
    turned = [torch.cat((p[2], p[0], p[1])) for p in parts]
    straight = attention(q, k, v, Bounds.of((70, 2, 130)), scale=0.3).split((70, 2, 130))
    other = attention(*turned, Bounds.of((130, 70, 2)), scale=0.3)
    torch.testing.assert_close(other, torch.cat((straight[2], straight[0], straight[1])), rtol=1e-12, atol=1e-12)


def test_padding_stays_within_twice_the_tokens() -> None:
    """One long document among many short ones must not blow the rectangle up (beyond the smallest group's 64)."""
    bounds = Bounds.of([2048, *[100] * 30, *[5] * 20])
    padded = sum(group.num_documents * group.length for group in groups_of(bounds))
    assert padded <= 2 * bounds.num_tokens + 64 * 20


@pytest.mark.parametrize("lengths", [(90, 33, 120), (40, 51, 22, 60, 3), (600, 40)], ids=str)
@pytest.mark.parametrize("window", [None, 30])
def test_bf16_error_is_that_of_bf16(lengths: tuple[int, ...], window: int | None) -> None:
    """Against fp64: within 1 % of the output's size forward, 2 % backward; also where scores are kept in memory
    (short documents) and where they are not."""
    exact = make(lengths, heads=6, size=32)
    rough = [x.detach().bfloat16().requires_grad_() for x in exact]
    truth = reference_attention(*exact, Bounds.of(lengths), scale=32**-0.5, window=window)
    ours = attention(*rough, Bounds.of(lengths), scale=32**-0.5, window=window)
    assert (ours.double() - truth).norm() < 0.01 * truth.norm()
    truth.sum().backward()
    ours.sum().backward()
    for near, far in zip(rough, exact, strict=True):
        assert near.grad is not None and far.grad is not None
        assert (near.grad.double() - far.grad).norm() < 0.02 * far.grad.norm()


def test_bounds_refuse_what_is_not_rising() -> None:
    with pytest.raises(AssertionError):
        Bounds((0, 5, 3))
    with pytest.raises(AssertionError):
        Bounds((1, 5))


def test_bounds_tell_positions_and_lengths() -> None:
    bounds = Bounds((0, 2, 2, 5))
    assert bounds.lengths == (2, 0, 3) and bounds.max_length == 3 and bounds.num_documents == 3
    assert bounds.positions().tolist() == [0, 1, 0, 1, 2]
    assert bounds.reaches().tolist() == [2, 2, 3, 3, 3]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the varlen kernel needs CUDA")
@pytest.mark.parametrize("window", [None, 5])
def test_varlen_equals_reference_on_cuda(window: int | None) -> None:
    """bf16 kernel against the loop in fp32: 1 % forward, 2 % backward."""
    lengths = (90, 33, 0, 120, 1)
    exact = [x.detach().cuda().float().requires_grad_() for x in make(lengths, size=64)]
    rough = [x.detach().bfloat16().requires_grad_() for x in exact]
    truth = reference_attention(*exact, Bounds.of(lengths), scale=0.125, window=window)
    ours = varlen_attention(*rough, Bounds.of(lengths), scale=0.125, window=window)
    assert (ours.float() - truth).norm() < 0.01 * truth.norm()
    upstream = torch.randn_like(truth)
    truth.backward(upstream)
    ours.backward(upstream.bfloat16())
    for near, far in zip(rough, exact, strict=True):
        assert near.grad is not None and far.grad is not None
        assert (near.grad.float() - far.grad).norm() < 0.02 * far.grad.norm()
