"""Generation with a cache: rows of any lengths do not feel each other, can be dropped, and cannot overrun their room."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from danlu.model.build import load_model
from danlu.model.model import Model
from danlu.ops.attention import Bounds


@pytest.fixture
def model(tmp_path: Path) -> Model:
    config = {
        "model_type": "qwen2", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    return load_model(tmp_path, init="random", dtype="fp64")


def ids_of(length: int) -> torch.Tensor:
    return torch.randint(0, 60, (length,), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def test_a_row_alone_and_in_company(model: Model) -> None:
    """Batched with longer and shorter prompts, a row's hidden states stay what they are alone, to 1e-12."""
    prompts, steps = [ids_of(2), ids_of(11), ids_of(5)], ids_of(12).view(4, 3)
    together = model.new_cache(3, 16)
    states = [model.prefill(prompts, together), *(model.step(ids_B, together) for ids_B in steps)]
    for row, prompt in enumerate(prompts):
        alone = model.new_cache(1, 16)
        apart = [model.prefill([prompt], alone), *(model.step(ids_B[row : row + 1], alone) for ids_B in steps)]
        for one, many in zip(apart, states, strict=True):
            torch.testing.assert_close(many[row : row + 1], one, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_steps_equal_one_long_forward(model: Model) -> None:
    ids, bounds = ids_of(14), Bounds.of([14])
    whole = model.hidden(ids, bounds.positions(), bounds)
    cache = model.new_cache(1, 14)
    states = [model.prefill([ids[:6]], cache), *(model.step(ids[i : i + 1], cache) for i in range(6, 14))]
    torch.testing.assert_close(torch.cat(states), whole[5:], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_finished_rows_are_dropped_without_a_trace(model: Model) -> None:
    prompts = [ids_of(9), ids_of(2), ids_of(4)]
    whole, kept = model.new_cache(3, 12), model.new_cache(3, 12)
    model.prefill(prompts, whole)
    model.prefill(prompts, kept)
    assert kept.drop([0]) == [(2, 0)], "the last row took the place of the first"
    assert kept.num_rows == 2 and kept.longest == 4
    for ids_B in ids_of(6).view(2, 3):
        torch.testing.assert_close(model.step(ids_B[[2, 1]], kept), model.step(ids_B, whole)[[2, 1]])


def test_prefill_makes_no_graph(model: Model) -> None:
    assert not model.prefill([ids_of(3)], model.new_cache(1, 4)).requires_grad


@torch.no_grad()
def test_a_full_cache_says_so(model: Model) -> None:
    cache = model.new_cache(1, 4)
    with pytest.raises(AssertionError, match="5 in 4"):
        model.prefill([ids_of(5)], cache)
    model.prefill([ids_of(4)], cache)
    with pytest.raises(AssertionError, match="full"):
        model.step(ids_of(1), cache)
