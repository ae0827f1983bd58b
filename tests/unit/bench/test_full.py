"""The bench of full fine-tuning: its own cases are planned to fit, and shapes are those that are drawn."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.model import weights
from danlu.model.decoder import Decoder
from danlu.model.families import own_family
from danlu.planning.bases import BASES
from danlu.planning.cards import CARDS

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


def test_the_planners_cases_are_shapes_that_can_be_drawn(full: Any, tmp_path: Path) -> None:
    """Counted by the model's own reading of the config that is written; capped cases are planned to fit."""
    cases, shape_run = importlib.import_module("plan_cases"), importlib.import_module("shape_run")
    unseen, seen = ({case.shape for case in group} for group in (cases.UNSEEN, cases.CALIBRATED))
    assert len(cases.UNSEEN) >= 14 and not unseen & seen
    for shape in {case.shape for case in cases.CASES}:
        config = weights.read_config(shape_run.write_shape(shape, tmp_path / shape))
        family = own_family(config)
        assert family is not None
        with torch.device("meta"):
            model = Decoder(family.spec(config), tmp_path / shape, config)
        assert sum(weight.numel() for weight in model.parameters()) == shape_run.shapes_of(shape).num_params
    assert all(case.plan(CARDS["H200"]).fits for case in cases.UNSEEN)


def test_cases_are_found_by_name_and_by_group(full: Any) -> None:
    cases = importlib.import_module("plan_cases")
    assert cases.named([]) == cases.CASES and cases.named(["unseen"]) == cases.UNSEEN
    assert next(case.name for case in cases.named(["8b-4k", "unseen"])) == "8b-4k"
    with pytest.raises(AssertionError, match="7b-non"):
        cases.named(["7b-non"])
