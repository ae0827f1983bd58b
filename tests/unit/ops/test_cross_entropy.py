"""The chunked head against the whole one. fp64, tolerance 1e-10, forward and backward, and the memory it must not take.

Tests named `kernel` run on CUDA, and where there is none in one child process under Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from danlu.ops import cross_entropy
from danlu.ops.cross_entropy import (
    chunk_in_place,
    linear_cross_entropy,
    reference_log_probs,
    rows_per_chunk,
    token_log_probs,
)
from kernels_kit import DEVICE, has_kernels


def make(
    rows: int = 23, vocab: int = 37, width: int = 8, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocab, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, vocab, (rows,), generator=generator)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("chunk_rows", [1, 7, 23, 100])
def test_summed_loss_equals_reference(softcap: float | None, chunk_rows: int) -> None:
    hidden, weight, targets = make()
    truth = -reference_log_probs(hidden, weight, targets, softcap).sum() * 0.37
    ours = linear_cross_entropy(hidden, weight, targets, softcap=softcap, chunk_rows=chunk_rows) * 0.37
    torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(truth, (hidden, weight))
    for got, want in zip(torch.autograd.grad(ours, (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("chunk_rows", [1, 7, 100])
def test_token_log_probs_equal_reference(softcap: float | None, chunk_rows: int) -> None:
    """Each row has an upstream factor of its own, as DPO's sigmoid gives it."""
    hidden, weight, targets = make()
    upstream = torch.randn(23, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    truth = reference_log_probs(hidden, weight, targets, softcap)
    ours = token_log_probs(hidden, weight, targets, softcap=softcap, chunk_rows=chunk_rows)
    torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(truth, (hidden, weight), upstream)
    for got, want in zip(torch.autograd.grad(ours, (hidden, weight), upstream), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    hidden, weight, targets = make()
    hidden.requires_grad_(frozen == "weight")
    weight.requires_grad_(frozen == "hidden")
    for loss in (linear_cross_entropy(hidden, weight, targets), token_log_probs(hidden, weight, targets).sum()):
        assert loss.requires_grad == (frozen != "both")
        if frozen != "both":
            loss.backward()
    assert (hidden.grad is None) == (frozen != "weight")
    assert (weight.grad is None) == (frozen != "hidden")


def test_no_supervised_row_at_all() -> None:
    hidden, weight, targets = make(rows=0)
    loss = linear_cross_entropy(hidden, weight, targets)
    loss.backward()
    assert loss.item() == 0 and weight.grad is not None and not weight.grad.any()
    assert token_log_probs(hidden, weight, targets).shape == (0,)


def test_bf16_statistics_are_fp32() -> None:
    """A vocabulary whose log-sum would drown in bf16: error below 2e-3 of the loss (bf16 alone rounds at 4e-3)."""
    hidden, weight, targets = make(rows=64, vocab=4096, width=32, dtype=torch.bfloat16)
    truth = -reference_log_probs(hidden.double(), weight.double(), targets).sum()
    ours = linear_cross_entropy(hidden, weight, targets)
    assert ours.dtype == torch.float32
    assert abs(ours.item() / truth.item() - 1) < 2e-3


def test_autocast_casts_as_a_linear_layer_would() -> None:
    hidden, weight, targets = make(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
        log_probs = token_log_probs(hidden, weight, targets)
    (loss + log_probs.sum()).backward()
    truth = -reference_log_probs(hidden.detach().double(), weight.detach().double(), targets).sum()
    assert abs(loss.item() / truth.item() - 1) < 0.01 and abs(-log_probs.sum().item() / truth.item() - 1) < 0.01
    assert hidden.grad is not None and hidden.grad.dtype == torch.float32


def test_whole_logits_never_exist() -> None:
    """Big vocabulary, many rows: the largest tensor made is a chunk, not [N, V]."""
    hidden, weight, targets = make(rows=512, vocab=50_000, width=8, dtype=torch.float32)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as watched:
        linear_cross_entropy(hidden, weight.detach(), targets)
    # Each matmul's own allocation: one chunk of logits, a quarter of the whole at most.
    largest = max(event.self_cpu_memory_usage for event in watched.events())
    assert 0 < largest < 512 * 50_000 * 4 / 4


def test_padding_rows_count_for_nothing() -> None:
    """Buckets of fixed size are filled up with rows without a target."""
    hidden, weight, targets = make()
    kept = torch.arange(len(targets)) % 3 != 0
    truth = linear_cross_entropy(hidden[kept], weight, targets[kept])
    ours = linear_cross_entropy(hidden, weight, targets.where(kept, -100), chunk_rows=7)
    torch.testing.assert_close(ours, truth)
    expected = torch.autograd.grad(truth, (hidden, weight))
    for got, want in zip(torch.autograd.grad(ours, (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(got, want)
    log_probs = token_log_probs(hidden, weight, targets.where(kept, -100))
    assert not log_probs[~kept].any() and log_probs[kept].all()


def test_a_second_backward_is_refused() -> None:
    """The gradient is scaled where it lies: handed on twice it would be scaled twice."""
    hidden, weight, targets = make()
    for loss in (linear_cross_entropy(hidden, weight, targets), token_log_probs(hidden, weight, targets).sum()):
        loss.backward(retain_graph=True)
        with pytest.raises(AssertionError, match="once"):
            loss.backward()


@pytest.mark.parametrize("vocab", [32_000, 151_936, 262_144])
@pytest.mark.parametrize("num_rows", [0, 1, 4915, 16_384])
def test_chunks_on_a_gpu_are_few_even_and_within_their_bytes(vocab: int, num_rows: int) -> None:
    for budget in (64 << 20, 256 << 20, 1 << 30):
        rows = rows_per_chunk(num_rows, vocab, 2, budget)
        assert rows % 128 == 0 and (rows == 128 or 2 * rows * vocab <= budget)
        num_chunks = -(-num_rows // rows)
        assert num_chunks * rows - num_rows < 128 * max(1, num_chunks)


# ---- the kernel


@has_kernels
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("vocab", [50, 1003, 20_000])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float16, 6e-4), (torch.bfloat16, 4e-3)])
def test_kernel_on_logits(softcap: float | None, vocab: int, dtype: torch.dtype, bound: float) -> None:
    """Rows that lie apart, of very different sizes; one padding row. Log-probabilities within 1e-5 of fp64's,
    slopes within one rounding of their dtype, nothing written between the rows."""
    generator = torch.Generator().manual_seed(vocab)
    wide = torch.randn(5, vocab + 24, generator=generator, dtype=torch.float64)
    wide *= torch.tensor([0.0, 1.0, 30.0, 8.0, 1.0], dtype=torch.float64)[:, None]
    wide = wide.to(dtype).to(DEVICE)
    logits, kept = wide[:, :vocab], wide[:, vocab:].clone()
    targets = torch.tensor([0, vocab - 1, 7, vocab // 2, -1], device=DEVICE)
    before = logits.double().requires_grad_()
    bent = before if softcap is None else torch.tanh(before / softcap) * softcap
    truth = bent.log_softmax(-1).gather(1, targets.clamp(min=0)[:, None])[:, 0] * (targets >= 0)
    (expected,) = torch.autograd.grad(-truth.sum(), before)
    same = logits.clone()
    log_probs, _ = chunk_in_place(same, targets, softcap, False)
    assert torch.equal(same, logits), "nothing is written where no slope is asked for"
    again, slope = chunk_in_place(logits, targets, softcap, True)
    assert torch.equal(log_probs, again)
    torch.testing.assert_close(log_probs.double(), truth, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slope.double(), expected, rtol=2 * bound, atol=bound if softcap is None else 2 * bound)
    assert torch.equal(wide[:, vocab:], kept)


@has_kernels
def test_kernel_passes_on_what_is_not_finite() -> None:
    """A broken row must stop the run, not vanish."""
    logits = torch.randn(2, 300, device=DEVICE)
    logits[1, 17] = torch.nan
    log_probs, slope = chunk_in_place(logits, torch.tensor([3, 4], device=DEVICE), None, True)
    assert log_probs[0].isfinite() and slope[0].isfinite().all()
    assert log_probs[1].isnan() and slope[1].isnan().any()


@has_kernels
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-6), (torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)])
def test_kernel_in_the_whole_loss(softcap: float | None, dtype: torch.dtype, bound: float) -> None:
    """Loss and both gradients against fp64 on the same rounded numbers; relative error of the whole gradient."""
    hidden, weight, targets = make(rows=12, vocab=700, width=64, dtype=dtype)
    hidden, weight = (x.detach().mul(0.3).to(DEVICE).requires_grad_() for x in (hidden, weight))
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    targets = targets.to(DEVICE)
    upstream = torch.linspace(-1, 2, 12, device=DEVICE)
    for ours, truth in (
        (linear_cross_entropy(hidden, weight, targets, softcap=softcap, chunk_rows=5) / 12,
         -reference_log_probs(*exact, targets, softcap).sum() / 12),
        ((token_log_probs(hidden, weight, targets, softcap=softcap, chunk_rows=5) * upstream).sum(),
         (reference_log_probs(*exact, targets, softcap) * upstream).sum()),
    ):  # fmt: skip
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), truth, rtol=bound, atol=bound)
        expected = torch.autograd.grad(truth, exact)
        for got, want in zip(torch.autograd.grad(ours, (hidden, weight)), expected, strict=True):
            assert (got.double() - want).norm() < bound * want.norm()


@has_kernels
def test_kernel_path_makes_no_wide_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The torch path, with its fp32 copies, is not taken."""
    monkeypatch.setattr(cross_entropy, "_chunk", None)
    hidden, weight, targets = (x.detach().to(DEVICE) for x in make(dtype=torch.bfloat16))
    linear_cross_entropy(hidden.requires_grad_(), weight, targets).backward()
    assert hidden.grad is not None and hidden.grad.any()


def test_interpreted(through_the_interpreter: Callable[..., None]) -> None:
    """The kernels' tests once more under Triton's interpreter, which is chosen before Triton is imported."""
    through_the_interpreter(only="kernel")
