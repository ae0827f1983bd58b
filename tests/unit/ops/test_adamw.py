"""AdamW over flat buffers: torch's own to the bit on a CPU, the kernel within stated bounds, rounding right on average.

Tests named `kernel` run on CUDA, and where there is none in one child process under Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from danlu.ops.adamw import adamw_, clip_factor, noise_like, reference_adamw_, reference_rounded
from danlu.ops.kernels import IS_INTERPRETED
from kernels_kit import DEVICE, has_kernels, numbers

SETTINGS = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}


def draw(size: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Parameter, gradient and two moments in the middle of a training; gradients over many magnitudes."""
    generator = torch.Generator().manual_seed(size)
    param, grad, average = (torch.randn(size, generator=generator) for _ in range(3))
    grad *= 10 ** (6 * torch.rand(size, generator=generator) - 5)
    square = grad.square() * torch.rand(size, generator=generator) + 1e-12
    return [param.to(DEVICE, dtype), *(x.to(DEVICE) for x in (grad, 0.1 * average * grad, square))]


@pytest.mark.skipif(IS_INTERPRETED or DEVICE == "cuda", reason="torch's own path")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_cpu_it_is_torchs_own(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(333, generator=generator, dtype=dtype))
    flat, average, square = weight.detach().clone(), torch.zeros(333, dtype=dtype), torch.zeros(333, dtype=dtype)
    optimizer = torch.optim.AdamW([weight], lr=1e-3, fused=True, **SETTINGS)
    for step in range(1, 8):
        weight.grad = torch.randn(333, generator=generator, dtype=dtype)
        adamw_(flat, weight.grad.clone(), average, square, **numbers(step), **SETTINGS)
        optimizer.step()
        assert torch.equal(flat, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_part_of_a_tensor_is_moved_as_the_whole_by_kernel_and_reference(dtype: torch.dtype) -> None:
    """Rounding by chance follows an element's place in its tensor: chunks that begin at 0 anew would draw alike."""
    size, cut = 1000, 512
    whole, parts = draw(size, dtype), draw(size, dtype)
    adamw_(*whole, **numbers(3), **SETTINGS, salt=5)
    for start in (0, cut):
        span = slice(start, start + cut)
        adamw_(*(tensor[span] for tensor in parts), **numbers(3), **SETTINGS, salt=5, start=start)
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


@pytest.mark.skipif(IS_INTERPRETED, reason="torch's own path")
def test_the_reference_is_adamw_in_fp64() -> None:
    weight = torch.nn.Parameter(torch.randn(100, dtype=torch.float64, device=DEVICE))
    flat, average, square = weight.detach().clone(), *torch.zeros(2, 100, dtype=torch.float64, device=DEVICE)
    optimizer = torch.optim.AdamW([weight], lr=1e-2, foreach=False, **SETTINGS)
    for step in range(1, 5):
        weight.grad = torch.randn_like(weight)
        reference_adamw_(
            flat, 2 * weight.grad, average, square, scale=torch.tensor(0.5, device=DEVICE), **numbers(step, 1e-2), **SETTINGS
        )  # fmt: skip
        optimizer.step()
        torch.testing.assert_close(flat, weight.detach(), rtol=1e-12, atol=1e-12)


def test_rounding_by_chance_is_right_on_average() -> None:
    """An update of a tenth of bf16's spacing: rounding to nearest never moves, by chance every tenth time."""
    before, spacing, num = 1.0, 2.0**-7, 20_000
    fresh = torch.full((num,), before + spacing / 10)
    got = reference_rounded(fresh, noise_like(fresh, torch.tensor(7.0), salt=3))
    assert set(got.tolist()) == {before, before + spacing}
    share = (got > before).double().mean().item()
    assert share == pytest.approx(0.1, abs=4 * (0.09 / num) ** 0.5)  # four standard deviations
    exact = torch.tensor([0.0, -0.0, 1.5, -3.0, 2.0**-130])
    assert torch.equal(reference_rounded(exact, noise_like(exact, torch.tensor(1.0), 0)).float(), exact)


def test_what_is_not_finite_stays_so() -> None:
    """A GPU's NaN has all bits set: a carry out of them would make it zero, and hide that a training has broken."""
    bad = torch.tensor([0x7FFFFFFF, -1, 0x7FC00000, 0x7F800000, -0x800000], dtype=torch.int32).view(torch.float32)
    for step in range(20):
        got = reference_rounded(bad, noise_like(bad, torch.tensor(float(step)), 0))
        assert got[:3].isnan().all() and got[3] == torch.inf and got[4] == -torch.inf


def test_noise_differs_by_step_tensor_and_stream_and_is_the_same_again() -> None:
    like = torch.empty(1000)
    drawn = [
        noise_like(like, torch.tensor(float(step)), salt, stream)
        for step, salt, stream in [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]
    ]
    for index, one in enumerate(drawn):
        assert (one.double().mean() / 2**32).item() == pytest.approx(0.5, abs=0.04)
        for other in drawn[index + 1 :]:
            shared = torch.corrcoef(torch.stack([one.double(), other.double()]))[0, 1]
            assert abs(shared.item()) < 0.13  # four standard deviations
    assert torch.equal(drawn[0], noise_like(like, torch.tensor(1.0), 0, 0))


def test_the_clip_factor_never_enlarges() -> None:
    assert clip_factor(torch.tensor(4.0), 1.0).item() == pytest.approx(0.25)
    assert clip_factor(torch.tensor(0.5), 1.0).item() == 1.0
    assert clip_factor(torch.tensor(torch.inf), 1.0).item() == 0.0


# ---- the kernel


@has_kernels
@pytest.mark.parametrize("size", [1, 1023, 5000])
@pytest.mark.parametrize("step", [1, 3, 700, 100_000])
def test_kernel_against_fp64(size: int, step: int) -> None:
    """One update from the same fp32 numbers. The step taken within 1e-5 of itself (its correction and root round a few
    times), the moments within 4 ulp of their largest part."""
    ours = draw(size)
    exact = [x.double() for x in ours]
    before, factor = exact[0].clone(), torch.tensor(0.3, device=DEVICE)
    adamw_(*ours, scale=factor, **numbers(step), **SETTINGS)
    reference_adamw_(*exact, scale=factor, **numbers(step), **SETTINGS)
    ulp = 2.0**-24
    taken, moved = ours[0].double() - before, exact[0] - before
    torch.testing.assert_close(taken, moved, rtol=1e-5, atol=4 * ulp * before.abs().max().item())
    magnitude = exact[1].abs().max().item()
    torch.testing.assert_close(ours[2].double(), exact[2], rtol=4 * ulp, atol=4 * ulp * magnitude)
    torch.testing.assert_close(ours[3].double(), exact[3], rtol=8 * ulp, atol=0)


@has_kernels
@pytest.mark.parametrize("grad_dtype", [torch.float32, torch.bfloat16])
def test_kernel_rounds_bf16_weights_as_the_reference_does(grad_dtype: torch.dtype) -> None:
    """The same noise: but for the few whose last fp32 bit decides, the same bf16 numbers, step after step."""
    ours = draw(3000, torch.bfloat16)
    truth = [x.clone() for x in ours]
    for step in range(1, 6):
        grad = draw(3000 + step)[1][:3000].to(grad_dtype)
        adamw_(ours[0], grad, *ours[2:], salt=11, **numbers(step), **SETTINGS)
        reference_adamw_(truth[0], grad, *truth[2:], salt=11, **numbers(step), **SETTINGS)
    assert ours[0].dtype == torch.bfloat16
    assert (ours[0] != truth[0]).double().mean() < 2e-3
    torch.testing.assert_close(ours[0].float(), truth[0].float(), rtol=2.0**-7, atol=1e-5)


@has_kernels
def test_kernel_keeps_a_nan() -> None:
    param, grad, average, square = draw(300, torch.bfloat16)
    grad[7] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    adamw_(param, grad, average, square, **numbers(3), **SETTINGS)
    assert param[7].isnan() and param.isnan().sum() == 1


def test_interpreted(through_the_interpreter: Callable[..., None]) -> None:
    """The kernels' tests once more under Triton's interpreter, which is chosen before Triton is imported."""
    through_the_interpreter(only="kernel")
