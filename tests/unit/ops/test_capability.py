"""What each generation of cards computes in; no GPU is asked."""

from __future__ import annotations

import pytest

from danlu.core.messages import say
from danlu.ops.capability import capability_of, is_in_build

TORCH = "2.11.0+cu130"


@pytest.mark.parametrize(
    ("card", "generation", "dtype", "attention", "fp8"),
    [
        ((6, 1), "Pascal", "float32", "padded", None),
        ((7, 0), "Volta", "float16", "memory-efficient", None),
        ((7, 5), "Turing", "float16", "memory-efficient", None),
        ((8, 0), "Ampere", "bfloat16", "flash", None),
        ((8, 6), "Ampere", "bfloat16", "flash", None),
        ((8, 9), "Ada", "bfloat16", "flash", "tensor"),
        ((9, 0), "Hopper", "bfloat16", "flash", "row"),
        ((10, 0), "Blackwell", "bfloat16", "flash", "row"),
        ((12, 0), "Blackwell RTX", "bfloat16", "flash", "tensor"),  # rows fail there
        ((13, 0), "Blackwell RTX", "bfloat16", "flash", "tensor"),  # not out yet: the safe answer
    ],
    ids=str,
)
def test_table(card: tuple[int, int], generation: str, dtype: str, attention: str, fp8: str | None) -> None:
    found = capability_of(*card, TORCH)
    assert (found.generation, found.dtype, found.attention, found.fp8) == (generation, dtype, attention, fp8)
    assert found.has_bf16 == (dtype == "bfloat16")
    assert found.has_kernels == (card >= (8, 0)) and bool(found.remarks) == (card < (8, 0))


def test_rows_in_fp8_came_with_a_torch() -> None:
    assert capability_of(9, 0, "2.4.1").fp8 == "tensor" and capability_of(9, 0, "2.5.0").fp8 == "row"


def test_remarks_are_sentences_in_both_languages() -> None:
    for card in ((6, 1), (7, 0), (7, 5)):
        for key in capability_of(*card, TORCH).remarks:
            for language in ("en", "zh"):
                assert "V100" in say(key, language, name="V100", generation="Volta")


@pytest.mark.parametrize(
    ("card", "built", "runs"),
    [
        ((9, 0), ["sm_80", "sm_90", "sm_100"], True),
        ((8, 9), ["sm_80", "sm_90"], True),  # a later minor of the same major
        ((7, 0), ["sm_75", "sm_80", "sm_90", "compute_90"], False),  # wheels for CUDA 13 on a V100
        ((12, 0), ["sm_80", "compute_90"], True),  # intermediate code goes forward
        ((12, 0), ["sm_90a", "compute_90a"], False),  # but not that of one architecture only
        ((7, 5), ["sm_50", "sm_70", "sm_75"], True),
        ((9, 0), [], False),
    ],
    ids=str,
)
def test_what_a_build_of_torch_runs_on(card: tuple[int, int], built: list[str], runs: bool) -> None:
    assert is_in_build(*card, built) == runs
