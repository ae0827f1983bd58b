"""Packing: every item once, budgets held, packs full, the same order for the same (seed, epoch)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import DataError
from danlu.data.pack import fill_ratio, pack


@given(st.lists(st.integers(1, 64), max_size=300), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=150)
def test_every_item_once_and_never_over_budget(lengths: list[int], seed: int, epoch: int) -> None:
    packs = pack(lengths, 64, seed, epoch)
    assert sorted(index for indices in packs for index in indices.tolist()) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in indices) <= 64 for indices in packs)


def test_order_depends_on_seed_and_epoch_only() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 500)
    flat = [
        np.concatenate(pack(lengths, 512, seed, epoch)).tolist() for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]
    assert flat[0] == flat[1] and flat[0] != flat[2] and flat[0] != flat[3]


@pytest.mark.parametrize("budget", [2048, 8192])
def test_packs_are_full_on_typical_lengths(budget: int) -> None:
    lengths = np.minimum(np.random.default_rng(3).lognormal(5.2, 0.9, 20_000).astype(np.int64) + 8, 2048)
    packs = pack(lengths, budget, 7, 0)
    assert fill_ratio(packs, lengths, budget) >= 0.97


def test_an_item_over_budget_is_refused_not_cut() -> None:
    with pytest.raises(DataError, match="item 1 has 9 tokens"):
        pack([3, 9], 8, 0, 0)


def test_packs_do_not_go_from_long_to_short() -> None:
    """Best fit fills long items first; left in that order, an epoch would end on nothing but short ones."""
    lengths = np.random.default_rng(1).integers(1, 100, 4000)
    packs = pack(lengths, 400, 0, 0)
    means = [float(lengths[indices].mean()) for indices in packs]
    half = len(means) // 2
    assert abs(np.mean(means[:half]) - np.mean(means[half:])) < 0.1 * np.mean(means)


def test_packs_of_small_items_are_alike_in_length() -> None:
    """Sorted by length, one step would hold all long documents and another all short chats."""
    random = np.random.default_rng(0)
    lengths = np.where(random.random(8000) < 0.5, random.integers(20, 40, 8000), random.integers(900, 1024, 8000))
    packs = pack(lengths, 65_536, seed=1, epoch=0)
    long_shares = [float((lengths[indices] > 500).mean()) for indices in packs[:-1]]
    assert min(long_shares) > 0.3 and max(long_shares) < 0.75
