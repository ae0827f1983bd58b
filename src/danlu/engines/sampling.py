"""Drawing the next token: greedy, temperature, top-k, top-p. Pure functions of logits and of one number per draw.

A question's numbers come from the seed and its own prompt, never from its place in a batch, and a draw is the inverse
of the cumulative distribution, which moves continuously with the logits. So a question asked alone or among others gets
the same answer, but for draws within round-off of a boundary.

Shapes: B rows, V vocabulary, K candidates kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from danlu.core.errors import EngineError
from danlu.engines.engine import Sampling

NUM_CANDIDATES = 512  # enough for nearly every nucleus; a wider one is found by sorting the whole vocabulary


def check_sampling(sampling: Sampling) -> None:
    """EngineError naming the setting that makes no sense."""
    bounds = (
        ("max_new_tokens", sampling.max_new_tokens, sampling.max_new_tokens >= 1, ">= 1"),
        ("temperature", sampling.temperature, 0.0 <= sampling.temperature < float("inf"), ">= 0"),
        ("top_p", sampling.top_p, 0.0 < sampling.top_p <= 1.0, "0 < top_p <= 1"),
        ("top_k", sampling.top_k, sampling.top_k >= 0, ">= 0"),
        ("seed", sampling.seed, sampling.seed >= 0, ">= 0"),
        ("stop", sampling.stop, all(sampling.stop), "no empty text"),
    )
    for name, given, is_fine, expected in bounds:
        if not is_fine:
            raise EngineError("engine.bad_sampling", where=name, name=name, given=given, expected=expected)


def draws(sampling: Sampling, prompt_ids: Sequence[int], num_draws: int) -> npt.NDArray[np.float64]:
    """draws_N in [0, 1): a counter-based stream keyed by seed and prompt."""
    prompt = hashlib.sha256(np.asarray(prompt_ids, dtype="<i8").tobytes()).digest()
    key = np.array([sampling.seed % 2**64, int.from_bytes(prompt[:8], "little")], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(num_draws)


def choose(logits_BV: Tensor, sampling: Sampling, draws_B: Tensor | None) -> tuple[Tensor, Tensor]:
    """(ids_B, peak_B): the next token of each row, and the highest logit, which is NaN when any logit is."""
    peak_B, best_B = logits_BV.max(-1)
    if sampling.temperature == 0:
        return best_B, peak_B
    assert draws_B is not None, "drawing needs numbers to draw with"
    if sampling.top_k == 0 and sampling.top_p == 1.0:
        return invert((logits_BV / sampling.temperature).softmax(-1), draws_B), peak_B
    weights_BK, ids_BK = candidates(logits_BV, sampling)
    return ids_BK.gather(1, invert(weights_BK, draws_B)[:, None])[:, 0], peak_B


def candidates(logits_BV: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """(weights_BK, ids_BK): the tokens that top-k and then top-p leave, likeliest first, others at weight 0. As
    everywhere, top-p keeps the token that carries the mass past p, and counts mass within top-k's."""
    vocab_size = logits_BV.shape[-1]
    num_kept = min(sampling.top_k or NUM_CANDIDATES, vocab_size)
    while True:
        top_BK, ids_BK = logits_BV.topk(num_kept, dim=-1)
        weighed_BX = top_BK if sampling.top_k else logits_BV
        whole_B1 = (weighed_BX / sampling.temperature).logsumexp(-1, keepdim=True)
        weights_BK = (top_BK / sampling.temperature - whole_B1).exp()
        mass_BK = weights_BK.cumsum(-1, dtype=torch.float64)
        if sampling.top_k or num_kept == vocab_size or bool((mass_BK[:, -1] >= sampling.top_p).all()):
            break
        num_kept = vocab_size
    before_BK = mass_BK - weights_BK
    return weights_BK.masked_fill(before_BK >= sampling.top_p, 0.0), ids_BK


def invert(weights_BK: Tensor, draws_B: Tensor) -> Tensor:
    """Where draws_B · total falls in the cumulated weights; never on a weight of 0."""
    mass_BK = weights_BK.cumsum(-1, dtype=torch.float64)
    aim_B = draws_B.to(mass_BK) * mass_BK[:, -1]
    found_B = torch.searchsorted(mass_BK, aim_B[:, None], right=True)[:, 0]
    last_B = (mass_BK < mass_BK[:, -1:]).sum(-1)  # the last token with weight, where round-off aimed past the end
    return torch.minimum(found_B, last_B)
