"""Every attention kernel that a card can run, against the loop in fp32: 1 % of the output's norm, 2 % of gradients'.
Skips without CUDA; `tests/unit/ops` holds what a CPU can show."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from danlu.ops import attention as here
from danlu.ops.attention import Bounds, attention, padded_attention, reference_attention
from danlu.ops.attention.choice import FEWEST_TOKENS, KERNELS, choose
from danlu.ops.attention.kernel import AnyKernel, Ask, Heads, run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
EVERY: dict[str, AnyKernel] = {kernel.name: kernel for kernel in KERNELS}
MIXED, EVEN, LED = (300, 17, 0, 1, 200, 64), (128,) * 4, (256, 256, 40, 3)
SHAPES = {"7 heads a key": (14, 2, 64), "no sharing": (4, 4, 128)}


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    here.forget()
    yield
    here.forget()


def fused(lengths: tuple[int, ...], shape: str, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, list[Tensor]]:
    """A row as one product makes it, and q, k, v as slices of it."""
    heads, kv_heads, size = SHAPES[shape]
    generator = torch.Generator("cuda").manual_seed(sum(lengths))
    row = torch.randn(sum(lengths), heads + 2 * kv_heads, size, generator=generator, device="cuda")
    row = row.to(dtype).requires_grad_()
    return row, list(torch.split(row, [heads, kv_heads, kv_heads], 1))


def skip_unless_fits(kernel: AnyKernel, parts: list[Tensor], ask: Ask) -> None:
    if not kernel.fits(Heads.of(*parts[:2]), ask):
        pytest.skip(f"{kernel.name} does not take this here")


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lengths", [MIXED, EVEN, LED], ids=["mixed", "even", "led"])
@pytest.mark.parametrize("window", [None, 50])
def test_kernel_equals_reference(name: str, shape: str, lengths: tuple[int, ...], window: int | None) -> None:
    row, parts = fused(lengths, shape)
    ask = Ask(Bounds.of(lengths), 0.11, window)
    skip_unless_fits(EVERY[name], parts, ask)
    exact = [part.detach().float().requires_grad_() for part in parts]
    truth = reference_attention(*exact, ask.bounds, scale=0.11, window=window)
    ours = run(EVERY[name], *parts, ask)
    assert (ours.float() - truth).norm() < 0.01 * truth.norm()
    upstream = torch.randn(truth.shape, generator=torch.Generator("cuda").manual_seed(1), device="cuda")
    truth.backward(upstream)
    ours.backward(upstream.to(ours.dtype))
    assert row.grad is not None
    for near, far in zip(torch.split(row.grad, [part.shape[1] for part in parts], 1), exact, strict=True):
        assert far.grad is not None
        assert (near.float() - far.grad).norm() < 0.02 * far.grad.norm()


@pytest.mark.parametrize("name", EVERY)
def test_documents_do_not_leak(name: str) -> None:
    """Another first document: the others' outputs and gradients keep every bit."""
    row, parts = fused(LED, "7 heads a key")
    ask = Ask(Bounds.of(LED), 0.11)
    skip_unless_fits(EVERY[name], parts, ask)
    outs, grads = [], []
    for factor in (1.0, -3.0):
        other = row.detach().clone()
        other[: LED[0]] *= factor
        other.requires_grad_()
        out = run(EVERY[name], *torch.split(other, [14, 2, 2], 1), ask)
        (grad,) = torch.autograd.grad(out, other, torch.ones_like(out))
        outs.append(out[LED[0] :])
        grads.append(grad[LED[0] :])
    assert torch.equal(*outs)
    if EVERY[name].is_deterministic:
        assert torch.equal(*grads)
    torch.testing.assert_close(*grads, rtol=2e-2, atol=2e-2)


def test_a_recorded_graph_replays_other_documents() -> None:
    """Only the ends on the device change; what a kernel derives from them is derived again."""
    kernel, first, second = EVERY["varlen FA2"], (100, 28, 128), (60, 120, 76)
    _, parts = fused(first, "7 heads a key")
    skip_unless_fits(kernel, parts, Ask(Bounds.of(first), 0.11))
    cu = torch.tensor([0, 100, 128, 256, 256], dtype=torch.int32, device="cuda")
    standing = Ask(Bounds.of(first).standing(cu, 128), 0.11)
    inputs = [part.detach() for part in parts]

    def compute() -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = run(kernel, *leaves, standing)
        return [out, *torch.autograd.grad(out, leaves, torch.ones_like(out))]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        compute()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = compute()
    cu.copy_(torch.tensor([0, 60, 180, 256, 256], dtype=torch.int32))
    graph.replay()
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = run(kernel, *leaves, Ask(Bounds.of(second), 0.11))
    wanted = [out, *torch.autograd.grad(out, leaves, torch.ones_like(out))]
    for ours, theirs in zip(recorded, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def test_the_choice_is_made_once_and_told_once() -> None:
    lengths = (512,) * 4
    _, parts = fused(lengths, "7 heads a key")
    ask = Ask(Bounds.of(lengths), 0.11)
    kernel = choose(*parts, ask)
    assert kernel is not None and [choice.name for choice in here.describe()] == [kernel.name]
    assert choose(*parts, Ask(Bounds.of(lengths), 0.11)) is kernel and len(here.describe()) == 1
    assert len(here.news()) >= 1 and here.news() == []


def test_answering_and_small_batches_measure_nothing() -> None:
    _, parts = fused((512,) * 4, "7 heads a key")
    with torch.inference_mode():
        attention(*parts, Bounds.of([512] * 4), scale=0.11)
    _, parts = fused((FEWEST_TOKENS - 1,), "7 heads a key")
    attention(*parts, Bounds.of([FEWEST_TOKENS - 1]), scale=0.11)
    assert here.describe() == []


def test_deterministic_mode_gives_the_same_bits() -> None:
    row, parts = fused((700, 300, 500), "7 heads a key")
    torch.use_deterministic_algorithms(True)
    try:
        grads = []
        for _ in range(2):
            out = attention(*parts, Bounds.of([700, 300, 500]), scale=0.11)
            grads.append(torch.autograd.grad(out, row, torch.ones_like(out), retain_graph=True)[0])
        kernel = choose(*parts, Ask(Bounds.of([700, 300, 500]), 0.11))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*grads) and here.describe() == []
    assert kernel is not None and kernel.is_deterministic


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_find_a_kernel(dtype: torch.dtype) -> None:
    """fp32, and fp16 as cards before Ampere compute."""
    _, parts = fused(MIXED, "7 heads a key", dtype)
    bounds = Bounds.of(MIXED)
    exact = [part.detach().float() for part in parts]
    truth = reference_attention(*exact, bounds, scale=0.11)
    for ours in (attention(*parts, bounds, scale=0.11), padded_attention(*parts, bounds, scale=0.11)):
        assert (ours.float() - truth).norm() < 0.01 * truth.norm()
