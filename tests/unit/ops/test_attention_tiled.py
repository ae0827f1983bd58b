"""The tiled kernels against the loop that a reader can check. On a CPU they run in one child process under Triton's
interpreter. Relative error of norms below 1 % in bf16, which is the format's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from danlu.ops.attention import Bounds, reference_attention
from danlu.ops.attention.kernel import Ask, attend
from danlu.ops.attention.tiled import Cut, Tiled, Tiles
from danlu.ops.kernels import IS_INTERPRETED

DEVICE = "cuda" if torch.cuda.is_available() and not IS_INTERPRETED else "cpu"
needs_kernels = pytest.mark.skipif(DEVICE == "cpu" and not IS_INTERPRETED, reason="no CUDA: see the interpreter's test")
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter's products know no bf16
SMALL = Cut(Tiles(32, 16, 4, 2), Tiles(16, 32, 4, 2), Tiles(32, 16, 4, 2))


def test_interpreted(through_the_interpreter: Callable[[], None]) -> None:
    through_the_interpreter()


def draw(num_tokens: int, heads: int, kv_heads: int, size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)
    row = torch.randn(num_tokens, heads + 2 * kv_heads, size, generator=generator).to(DEVICE)
    return [part.contiguous() for part in torch.split(row, [heads, kv_heads, kv_heads], 1)]


@needs_kernels
@pytest.mark.parametrize("lengths", [(90, 33, 0, 1, 64), (0, 32, 5)], ids=str)
@pytest.mark.parametrize(("window", "cut"), [(None, SMALL), (None, None), (1, SMALL), (20, SMALL), (40, None)], ids=str)
def test_tiled_kernels_equal_the_reference(lengths: tuple[int, ...], window: int | None, cut: Cut | None) -> None:
    bounds = Bounds.of(lengths)
    exact = [x.requires_grad_() for x in draw(bounds.num_tokens, 4, 2, 16)]
    wide = torch.cat([x.detach() for x in exact], 1).to(DTYPE).requires_grad_()
    rough = torch.split(wide, [4, 2, 2], 1)  # as slices of one row, as a model gives them
    truth = reference_attention(*exact, bounds, scale=0.3, window=window)
    ours = attend(Tiled(cut), *rough, Ask(bounds, 0.3, window))
    assert ours.is_contiguous() and (ours.float() - truth).norm() < 0.01 * truth.norm()
    upstream = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    truth.backward(upstream)
    ours.backward(upstream.to(DTYPE))
    assert wide.grad is not None
    for near, far in zip(torch.split(wide.grad, [4, 2, 2], 1), exact, strict=True):
        assert far.grad is not None
        assert (near.float() - far.grad).norm() < 0.01 * far.grad.norm() + 1e-2


@needs_kernels
def test_tiled_kernels_take_gradients_in_wider_rows() -> None:
    bounds = Bounds.of((40, 9))
    q, k, v = (x.to(DTYPE) for x in draw(49, 4, 2, 16))
    ask, kernel = Ask(bounds, 0.3), Tiled(SMALL)
    out, saved = kernel.forward(q, k, v, ask)
    wide = torch.randn(49, 5, 16, generator=torch.Generator().manual_seed(2)).to(DEVICE).to(DTYPE)
    from_wide = kernel.backward(wide[:, :4], q, k, v, out, saved, ask)
    packed = kernel.backward(wide[:, :4].contiguous(), q, k, v, out, saved, ask)
    assert all(torch.equal(a, b) for a, b in zip(from_wide, packed, strict=True))
