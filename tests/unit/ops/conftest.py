"""Kernels without a GPU: the same tests once more in a child process, where Triton interprets kernels on the CPU.

A test of a kernel is a test of its op: it asks for `device` and calls the public function. On CUDA that runs the
kernel. On a CPU it runs the torch path, and one test of the file that calls `through_the_interpreter()` runs the file
again with Triton's interpreter, where the same calls reach the kernels.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from danlu.ops.kernels import HAS_TRITON, IS_INTERPRETED

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() and not IS_INTERPRETED else "cpu"


@pytest.fixture
def through_the_interpreter(request: pytest.FixtureRequest, device: str) -> Callable[..., None]:
    """Runs the asking test's file again, all but that test; with `only`, the tests so named, of which none may skip."""

    def run(*, only: str = "") -> None:
        if device == "cuda" or IS_INTERPRETED:
            pytest.skip("the kernels are being tested right here")
        if not HAS_TRITON:
            pytest.skip("Triton is not installed")
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(request.path)]
        command += ["-k", only] if only else []
        done = subprocess.run(
            [*command, "--deselect", f"{request.path.relative_to(ROOT)}::{request.node.name}"],
            cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:]
        assert " passed" in done.stdout, "the child ran tests"
        assert not only or "skipped" not in done.stdout, done.stdout[-6000:]

    return run
