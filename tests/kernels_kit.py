"""Where a kernel's tests run, and the numbers that an optimizer's kernels read from the device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.ops.kernels import IS_INTERPRETED

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
has_kernels = pytest.mark.skipif(not (IS_INTERPRETED or DEVICE == "cuda"), reason="no CUDA: see the interpreter's test")


def numbers(step: int, lr: float = 1e-3) -> dict[str, Tensor]:
    return {
        "lr": torch.tensor(lr, dtype=torch.float64, device=DEVICE), "step": torch.tensor(float(step), device=DEVICE)
    }  # fmt: skip
