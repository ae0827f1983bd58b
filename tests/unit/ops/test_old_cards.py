"""A card that Triton does not support computes with plain ops, as its remark says; no GPU is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from danlu.ops import kernels
from danlu.ops.capability import capability_of


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    kernels.has_kernels.cache_clear()
    yield
    kernels.has_kernels.cache_clear()


@pytest.mark.parametrize("card", [(6, 1), (7, 0), (7, 5), (8, 0), (8, 9), (9, 0), (12, 0)], ids=str)
def test_kernels_are_launched_where_the_table_says(card: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(kernels, "HAS_TRITON", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or card)
    with FakeTensorMode():
        x, wide = (torch.empty(4, device="cuda:0", dtype=dtype) for dtype in (torch.float16, torch.float64))
        here = torch.empty(4)
    assert kernels.fits(x, None, x) == capability_of(*card, torch.__version__).has_kernels == (card >= (8, 0))
    assert not kernels.fits(x, wide) and (kernels.IS_INTERPRETED or not kernels.fits(x, here))
    assert asked == [torch.device("cuda:0")], "each card is asked once"
