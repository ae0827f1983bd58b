"""Where to compute, and in what."""

from __future__ import annotations

import pytest
import torch

from danlu.pipeline.device import capability_here, choose_device, choose_dtype, remarks_on


def test_a_cpu_is_asked_later_and_says_nothing() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_dtype("auto", "cpu") == "auto" and capability_here("cpu") is None and remarks_on("cpu") == []


def test_a_named_dtype_stands() -> None:
    assert choose_dtype("float32", "cpu") == "float32"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks a card")
def test_a_card_is_asked() -> None:
    capability = capability_here("cuda")
    assert capability is not None and choose_dtype("auto", "cuda") == capability.dtype
    assert len(remarks_on("cuda")) == len(capability.remarks)
