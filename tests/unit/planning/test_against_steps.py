"""The planner against whole training steps measured on one H200 (`bench/results/steps-h200.json`)."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[3] / "bench"


@pytest.fixture(scope="module")
def points() -> Any:
    sys.path.insert(0, str(BENCH))
    try:
        steps = importlib.import_module("measured_steps")
        return list(steps.points_of(BENCH / "results" / "steps-h200.json"))
    finally:
        sys.path.remove(str(BENCH))


@pytest.mark.parametrize(("what", "bar"), [("ms", 0.15), ("allocated_gib", 0.05), ("reserved_gib", 0.05)])
def test_every_measured_step_is_predicted_within_the_bars(points: Any, what: str, bar: float) -> None:
    wide = {point.name: point.errors[what] for point in points if abs(point.errors.get(what, 0)) > bar}
    assert len(points) > 15 and not wide, wide


def test_no_kind_of_step_leans_one_way(points: Any) -> None:
    """Errors of one sign everywhere would be a constant that is off."""
    errors = [point.errors["ms"] for point in points]
    assert abs(sum(errors) / len(errors)) < 0.03
