"""The chunked head against the whole one. fp64, tolerance 1e-10, forward and backward, and the memory it must not take."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.ops.cross_entropy import linear_cross_entropy, reference_log_probs, token_log_probs


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
