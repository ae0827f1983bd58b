"""Each step says how much of it is replay, and over an epoch it is what the recipe asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from danlu.data.card import Card
from danlu.data.dataset import Dataset
from danlu.data.tokens import Item, Tokens
from danlu.pipeline.shares import replay_shares
from danlu.training.plan import Plan


def item(length: int) -> Item:
    return Item((Tokens(np.ones(length, np.int32), np.ones(length, np.uint8)),))


def dataset(folder: Path, own: list[int], general: list[int]) -> Dataset:
    facts = {"replay": {"items": len(general), "tokens": sum(general), "ratio": 0.1}} if general else {}
    return Dataset.write(folder, {"train": [item(length) for length in own + general]}, Card(facts=facts))


def plan_of(data: Dataset, micro_tokens: int) -> Plan:
    lengths = data.part("train").lengths
    return Plan(lengths, epochs=2, max_steps=None, batch_tokens=400, micro_tokens=micro_tokens, seed=1)


@pytest.mark.parametrize("micro_tokens", [400, 100])
def test_shares_of_steps_add_up_to_the_recipe_s(tmp_path: Path, micro_tokens: int) -> None:
    data = dataset(tmp_path / "d", [20 + n % 60 for n in range(180)], [10 + n % 50 for n in range(27)])
    plan = plan_of(data, micro_tokens)
    steps = list(plan.steps_after(0))[: plan.steps_per_epoch]
    shares = [found["replay_share"] for found in replay_shares(data, plan, 0)]
    assert len(shares) == plan.num_steps and 0 <= min(shares) and max(shares) < 0.5
    tokens = [sum(int(data.part("train").lengths[items].sum()) for items in step.pieces) for step in steps]
    lengths = data.part("train").lengths
    wanted = lengths[180:].sum() / lengths.sum()
    told = sum(share * num for share, num in zip(shares, tokens, strict=False)) / sum(tokens)
    assert told == pytest.approx(wanted, abs=1e-4)
    assert list(replay_shares(data, plan, 5)) == list(replay_shares(data, plan, 0))[5:], "a resumed run says the same"


def test_nothing_is_said_where_nothing_is_replayed(tmp_path: Path) -> None:
    data = dataset(tmp_path / "d", [30] * 20, [])
    assert set(map(len, replay_shares(data, plan_of(data, 400), 0))) == {0}
