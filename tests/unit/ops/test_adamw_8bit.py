"""8-bit moments: codes right on average, the kernel as the reference, and a training that goes where fp32 moments go.

Tests named `kernel` run on CUDA, and where there is none in one child process under Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from danlu.ops.adamw import reference_adamw_
from danlu.ops.adamw_8bit import GROUP, Moments, adamw_8bit_, reference_adamw_8bit_
from kernels_kit import DEVICE, has_kernels, numbers

SETTINGS = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


def gradient(size: int, number: int) -> Tensor:
    """Over many magnitudes, with an outlier."""
    generator = torch.Generator().manual_seed(number)
    grad = torch.randn(size, generator=generator) * 10 ** (4 * torch.rand(size, generator=generator) - 5)
    grad[size // 3] = 3.0
    return grad.to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_part_of_a_tensor_is_moved_as_the_whole_by_kernel_and_reference(dtype: torch.dtype) -> None:
    size, cut = 5 * GROUP - 31, 2 * GROUP
    whole, parts = (torch.ones(size, device=DEVICE, dtype=dtype) for _ in range(2))
    ours, theirs = Moments.like(whole), Moments.like(parts)
    for step in (1, 2):
        adamw_8bit_(whole, gradient(size, step), ours, **numbers(step), **SETTINGS, salt=5)
        for start in range(0, size, cut):
            span, groups = slice(start, start + cut), slice(start // GROUP, (start + cut) // GROUP)
            part = Moments(
                theirs.exp_avg[span], theirs.exp_avg_scale[groups], theirs.exp_avg_sq[span],
                theirs.exp_avg_sq_scale[groups],
            )  # fmt: skip
            adamw_8bit_(parts[span], gradient(size, step)[span], part, **numbers(step), **SETTINGS, salt=5, start=start)
    assert torch.equal(whole, parts)
    assert all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in Moments.__slots__)


def test_codes_are_right_on_average_and_near_for_each() -> None:
    """Encoded 400 times with other noise. In units of the space between two codes: no more off than one each time, the
    mean of each within five standard deviations of the truth, and so the mean of all."""
    grad, num = gradient(GROUP, 0), 400
    exact, sums = torch.zeros(2, GROUP, device=DEVICE), torch.zeros(2, GROUP, device=DEVICE, dtype=torch.float64)
    reference_adamw_(torch.zeros(GROUP, device=DEVICE), grad, *exact, **numbers(1), **SETTINGS)
    largest = exact.abs().amax(1, keepdim=True)
    low = torch.stack([(exact[0].abs() / largest[0]).sqrt() * 127, (exact[1] / largest[1]) ** 0.25 * 255]).floor()
    power, most = torch.tensor([[2.0], [4.0]], device=DEVICE), torch.tensor([[127.0], [255.0]], device=DEVICE)
    space = largest * (((low + 1) / most) ** power - (low / most) ** power)
    for salt in range(num):
        moments = Moments.like(torch.empty(GROUP, device=DEVICE))
        reference_adamw_8bit_(torch.zeros(GROUP, device=DEVICE), grad, moments, salt=salt, **numbers(1), **SETTINGS)
        decoded = torch.stack(moments.decoded())
        assert ((decoded - exact).abs() <= 1.001 * space).all()
        sums += decoded
    off = (sums / num - exact) / space
    off[1, low[1] == 0] = 0  # below the first code of second moments that code stands for all
    assert (off.abs() < 5 * 0.5 / num**0.5).all()
    assert (off.mean(1).abs() < 5 * 0.5 / (num * GROUP) ** 0.5).all()
    assert (moments.exp_avg_sq > 0).all(), "a second moment of zero would let its weight jump"


def test_a_second_moment_fades_although_a_step_is_less_than_a_code() -> None:
    """To the nearest code it would stay for ever: 0.999 of a code rounds back to the code."""
    moments, param = Moments.like(torch.empty(4 * GROUP, device=DEVICE)), torch.zeros(4 * GROUP, device=DEVICE)
    for step in range(1, 301):
        grad = torch.ones_like(param) if step == 1 else torch.zeros_like(param)
        grad[::GROUP] = 1.0  # keeps the scale
        reference_adamw_8bit_(param, grad, moments, **numbers(step), **SETTINGS)
    faded = moments.decoded()[1].view(4, GROUP)[:, 1:]
    assert faded.mean().item() == pytest.approx(0.001 * 0.999**299, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_goes_where_fp32_moments_go(dtype: torch.dtype) -> None:
    """Least squares with inputs of very different size, 300 steps of noisy batches: the loss ends within 15 % of the one
    with fp32 moments and masters, from a thousand times as much."""

    def train(is_8bit: bool, dtype: torch.dtype) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(0)
        sizes = 10 ** (torch.rand(64, generator=generator) - 1)
        truth = torch.randn(64, 32, generator=generator)
        weight = torch.zeros(64, 32, dtype=dtype)
        moments, wide = Moments.like(weight), torch.zeros(2, 64 * 32)
        losses = []
        for step in range(1, 301):
            inputs = torch.randn(64, 64, generator=generator) * sizes
            errors = inputs @ (weight.float() - truth) + 0.1 * torch.randn(64, 32, generator=generator)
            losses.append(errors.square().mean().item())
            grad = (inputs.T @ errors / 64).to(dtype).flatten()
            rate = 0.1 * (1 - step / 301)
            if is_8bit:
                reference_adamw_8bit_(weight.view(-1), grad, moments, **numbers(step, rate), **SETTINGS)
            else:
                reference_adamw_(weight.view(-1), grad, *wide, **numbers(step, rate), **SETTINGS)
        return losses[0], sum(losses[-20:]) / 20

    if DEVICE == "cuda":
        pytest.skip("its numbers lie on the CPU")
    first, end = train(False, torch.float32)
    assert end < first / 100
    assert train(True, dtype)[1] < 1.15 * end


@has_kernels
@pytest.mark.parametrize("size", [1, GROUP, 5 * GROUP + 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernel_as_the_reference(size: int, dtype: torch.dtype) -> None:
    """The same noise: but for the few whose last fp32 bit decides, the same codes; none further off than one."""
    generator = torch.Generator().manual_seed(size)
    ours = torch.randn(size, generator=generator).to(DEVICE, dtype)
    truth = ours.clone()
    moments = Moments.like(ours)
    factor = torch.tensor(0.5, device=DEVICE)
    for step in (1, 2, 500):
        same = Moments(*(getattr(moments, name).clone() for name in Moments.__slots__))
        truth.copy_(ours)
        grad = gradient(size, step).to(dtype)
        adamw_8bit_(ours, grad, moments, salt=5, scale=factor, **numbers(step), **SETTINGS)
        reference_adamw_8bit_(truth, grad, same, salt=5, scale=factor, **numbers(step), **SETTINGS)
        for codes, wanted in ((moments.exp_avg, same.exp_avg), (moments.exp_avg_sq, same.exp_avg_sq)):
            apart = (codes.int() - wanted.int()).abs()
            assert apart.max() <= 1 and (apart > 0).double().mean() < 5e-3
        torch.testing.assert_close(moments.exp_avg_scale, same.exp_avg_scale, rtol=1e-5, atol=0)
        torch.testing.assert_close(moments.exp_avg_sq_scale, same.exp_avg_sq_scale, rtol=1e-5, atol=0)
        bound = 2.0**-7 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(ours, truth, rtol=bound, atol=bound / 100)
        assert (ours != truth).double().mean() < 5e-3 or dtype == torch.float32


def test_interpreted(through_the_interpreter: Callable[..., None]) -> None:
    """The kernels' tests once more under Triton's interpreter, which is chosen before Triton is imported."""
    through_the_interpreter(only="kernel")
