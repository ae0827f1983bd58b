"""Perplexity: how surprised a model is by text, from the log-probabilities of its tokens.

Per token it compares models of one tokenizer only. Per byte of text (bits per byte) it compares any two models: a
tokenizer that cuts Chinese into more pieces no longer looks less surprised by each.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from danlu.evaluation.stats import Estimate, bootstrap

_LARGEST = 700.0  # exp of more overflows a double


def perplexity(log_prob: float, num_tokens: int) -> float:
    """exp of the mean negative log-probability; infinite when there is nothing, or an impossible token, to average."""
    return math.exp(min(_LARGEST, -log_prob / num_tokens)) if num_tokens else math.inf


def bits_per_byte(log_prob: float, num_bytes: int) -> float:
    """Bits that a model would need to write the text down, per byte of UTF-8; infinite for no text."""
    return -log_prob / math.log(2) / num_bytes if num_bytes else math.inf


def perplexity_ratio(
    before: Sequence[float], after: Sequence[float], num_tokens: Sequence[int], groups: Sequence[Hashable]
) -> Estimate:
    """Perplexity after over before, of the same tokens, with its clustered interval: 1.15 is 15 % more surprised.

    `before`, `after`: summed log-probabilities per text, finite; longer texts weigh more.
    """
    losses = [was - now for was, now in zip(before, after, strict=True)]
    return bootstrap(losses, groups, weights=[float(count) for count in num_tokens], transform=np.exp)
