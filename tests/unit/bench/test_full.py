"""The bench of full fine-tuning: its own cases are planned to fit, and shapes are those that are drawn."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from danlu.planning.bases import BASES

BENCH = Path(__file__).resolve().parents[3] / "bench"


@pytest.fixture(scope="module")
def full() -> Any:
    sys.path.append(str(BENCH))  # last: names there must not stand before anybody else's
    yield importlib.import_module("full")
    sys.path.remove(str(BENCH))


def test_every_case_is_planned_to_fit(full: Any) -> None:
    cases = [full.Case.read(text) for text in full.CASES]
    assert {case.way for case in cases} <= full.WAYS.keys() and len(cases) == len(set(cases))
    for case in cases:
        planned = full.planned(case, "qwen2.5-7b")
        assert planned["reserved_gib"] < 78 and planned["host_gib"] < 90
        assert (planned["host_gib"] > 0) == ("away" in case.way)


def test_shapes_are_those_that_are_drawn(full: Any) -> None:
    """Names that the bench unties and gives one vocabulary, and bases as they are."""
    shape_run = importlib.import_module("shape_run")
    assert shape_run.shapes_of("qwen2.5-1.5b").vocab == 152_064 and not shape_run.shapes_of("qwen2.5-1.5b").tied
    for name in ("qwen2.5-3b", "llama-3.1-8b", "qwen2.5-14b", "qwen3-4b"):
        assert shape_run.shapes_of(name) == BASES[name]
