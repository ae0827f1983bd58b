"""Many copies in one launch are the copies one by one, and touch nothing else."""

from __future__ import annotations

import pytest
import torch

from danlu.ops.kernels import IS_INTERPRETED
from danlu.ops.many_copies import Copy, ManyCopies


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_many_copies_are_each_copy(dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(0)
    M = torch.full((700, 300), float("nan"), dtype=dtype, device=device)
    places = [(slice(0, 16), slice(0, 250)), (slice(16, 616), slice(250, 266)), (slice(620, 621), slice(3, 8))]
    targets, sources = [M[place] for place in places], []
    for target in targets:
        sources.append(torch.randn(target.shape, device=device))
    copies = ManyCopies([Copy(s, t, scale) for s, t, scale in zip(sources, targets, (1.0, 2.0, 0.3), strict=True)])
    for _ in range(2):
        copies()
        for source, target, scale in zip(sources, targets, (1.0, 2.0, 0.3), strict=True):
            exact = (source * scale).to(dtype)
            # the interpreter cuts bf16 off where a GPU rounds
            room = 2**-7 if IS_INTERPRETED and dtype == torch.bfloat16 else 0.0
            torch.testing.assert_close(target, exact, rtol=room, atol=0.0)
            source.mul_(-0.5)
    covered = torch.zeros(M.shape, dtype=torch.bool, device=device)
    for place in places:
        covered[place] = True
    assert M[~covered].isnan().all()


def test_no_copies_are_none() -> None:
    ManyCopies([])()


def test_the_kernel_through_the_interpreter(through_the_interpreter) -> None:
    through_the_interpreter()
