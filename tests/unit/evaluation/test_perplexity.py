"""Perplexity beside the definition in exact arithmetic, and what it may be compared across."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest

from danlu.evaluation.perplexity import bits_per_byte, perplexity, perplexity_ratio


def test_perplexity_is_the_definition_on_500_random_texts() -> None:
    """The geometric mean of 1/p over tokens, its mean of logarithms summed without rounding."""
    dice = random.Random(1)
    for _ in range(500):
        logs = [math.log(dice.uniform(1e-6, 1)) for _ in range(dice.randint(1, 80))]
        exact = sum(Fraction(log) for log in logs) / len(logs)
        assert perplexity(math.fsum(logs), len(logs)) == pytest.approx(math.exp(-float(exact)), rel=1e-12)


def test_even_chances_are_their_number() -> None:
    assert perplexity(50 * math.log(1 / 8), 50) == pytest.approx(8)
    assert bits_per_byte(50 * math.log(1 / 8), 150) == pytest.approx(1.0)
    assert perplexity(0, 0) == perplexity(-math.inf, 3) * math.inf == bits_per_byte(0, 0) == math.inf


def test_bytes_do_not_depend_on_how_a_tokenizer_cuts() -> None:
    """The same text, as surprising as a whole: one tokenizer makes 10 tokens of it, another 30."""
    assert perplexity(-30, 10) > perplexity(-30, 30)
    text = "年假七天".encode()
    assert bits_per_byte(-30, len(text)) == pytest.approx(30 / math.log(2) / 12)


def test_the_ratio_weighs_texts_by_their_tokens_and_documents_as_one() -> None:
    before, after, tokens = [-10.0, -200.0, -30.0], [-11.0, -260.0, -30.0], [10, 100, 20]
    ratio = perplexity_ratio(before, after, tokens, ["a", "b", "b"])
    assert ratio.value == pytest.approx(math.exp((301 - 240) / 130))
    assert ratio.value == pytest.approx(perplexity(-301, 130) / perplexity(-240, 130))
    assert ratio.num_groups == 2 and ratio.low <= ratio.value <= ratio.high
