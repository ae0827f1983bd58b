"""Cards by the names that people and drivers give them."""

from __future__ import annotations

import pytest

from danlu.planning.cards import CARDS, GIB, cpu_card, find_card, seen_card


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("4090", "RTX 4090"), ("rtx-4090", "RTX 4090"), ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("3060", "RTX 3060 12GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"), ("a100 40gb", "A100 40GB"), ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("A100", "A100 80GB"), ("NVIDIA H100 80GB HBM3", "H100 80GB"), ("NVIDIA H200", "H200"), ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-16GB", "V100 16GB"), ("NVIDIA GeForce RTX 4060 Ti", "RTX 4060 Ti 16GB"), ("NVIDIA L20", "L20"),
        ("NVIDIA A10", "A10"), ("A6000", "RTX A6000"),
    ],
)  # fmt: skip
def test_a_card_is_found_by_any_usual_name(name: str, card: str) -> None:
    found = find_card(name)
    assert found is not None and found.name == card


@pytest.mark.parametrize("name", ["", "foo", "Radeon", "RTX 4070 Ti SUPER", "910B", "RTX"])
def test_a_stranger_is_not_taken_for_another_card(name: str) -> None:
    assert find_card(name) is None


def test_the_table_covers_8_to_141_gb_and_is_sane() -> None:
    sizes = [card.memory_bytes / GIB for card in CARDS.values()]
    assert min(sizes) < 8 and max(sizes) > 139
    for card in CARDS.values():
        assert 0.3 * card.datasheet_flops_16 < card.flops_16 <= card.datasheet_flops_16, card.name
        assert card.attention_flops < card.flops_16 and card.flops_32 < card.flops_16
        assert card.flops_8 is None or 1.3 < card.flops_8 / card.flops_16 < 2.1
        assert (card.flops_8 is None) or card.capability >= (8, 9), "fp8 came with Ada and Hopper"


def test_old_cards_have_no_bf16() -> None:
    assert [name for name, card in CARDS.items() if not card.has_bf16] == ["V100 16GB", "V100 32GB", "T4"]


def test_a_driver_s_card_has_its_true_memory() -> None:
    seen = seen_card("NVIDIA GeForce RTX 4090", 20 * 2**30, (8, 9))
    assert seen.memory_bytes == 20 * 2**30 and seen.flops_16 == CARDS["RTX 4090"].flops_16
    stranger = seen_card("NVIDIA Something New", 90 * 2**30, (9, 0))
    assert stranger.name == "Something New" and not stranger.is_measured and stranger.has_fp8
    assert seen_card("NVIDIA H200", 141 * 2**30, (9, 0)).is_measured


def test_a_cpu_without_bf16_computes_in_fp32() -> None:
    old, new = (cpu_card(num_cores=2, memory_bytes=2**33, has_bf16=has) for has in (False, True))
    assert old.flops_16 == old.flops_32 < new.flops_16 and new.kind == "cpu"
