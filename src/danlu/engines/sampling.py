"""Drawing the next token: greedy, temperature, top-k, top-p. Pure functions of logits and of one number per draw.

A question's numbers come from the seed and its own prompt, never from its place in a batch, and a draw is the inverse
of the cumulative distribution, which moves continuously with the logits. So a question asked alone or among others gets
the same answer, but for draws within round-off of a boundary.

Shapes: B rows, V vocabulary, K candidates kept.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

from danlu.core.errors import EngineError
from danlu.engines.engine import Sampling
from danlu.engines.rows import Row
from danlu.engines.sampling_extras import SamplingExtras, TokenLogProb

PIECE = 128
"""Tokens of the vocabulary that are looked through together: torch finds a piece's highest three times as fast as a
whole row's place of it."""
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


def choose_each(logits_BV: Tensor, rows: Sequence[Row]) -> tuple[list[int], set[int], dict[int, TokenLogProb]]:
    """Each row's next token, as its sampling and extras will have it; the rows (by identity) whose logits are no
    numbers; and the log-probabilities of those who asked for them."""
    asked = [place for place, row in enumerate(rows) if row.extras.num_likeliest is not None]
    whole = {place: logits_BV[place].double().log_softmax(-1) for place in asked}  # as the model said it
    if any(not row.extras.is_plain for row in rows):
        logits_BV = logits_BV.float()
        for place, row in enumerate(rows):
            if not row.extras.is_plain:
                logits_BV[place] = seasoned(logits_BV[place], row)
    best_B, peak_B = highest(logits_BV)
    ids, is_sound = best_B.tolist(), peak_B.isfinite().tolist()
    drawn: dict[tuple[float, float, int], list[int]] = {}
    for place, row in enumerate(rows):
        if row.sampling.temperature > 0 and is_sound[place]:
            drawn.setdefault((row.sampling.temperature, row.sampling.top_p, row.sampling.top_k), []).append(place)
    for places in drawn.values():
        numbers = torch.tensor([_draw(rows[place]) for place in places], dtype=torch.float64, device=logits_BV.device)
        chosen_B, _ = choose(logits_BV[places].float(), rows[places[0]].sampling, numbers)
        for place, token in zip(places, chosen_B.tolist(), strict=True):
            ids[place] = token
    log_probs = {}
    for place in asked:
        tops, tokens = whole[place].topk(rows[place].extras.num_likeliest or 1)
        pairs = tuple(zip(tokens.tolist(), tops.tolist(), strict=True)) if rows[place].extras.num_likeliest else ()
        log_probs[id(rows[place])] = TokenLogProb(float(whole[place][ids[place]]), pairs)
    return ids, {id(row) for row, sound in zip(rows, is_sound, strict=True) if not sound}, log_probs


def hold_each(logits_BV: Tensor, rows: Sequence[Row]) -> None:
    """Take out, in place, what each row's grammar does not allow. A row whose grammar has no way on ends with that
    fault; logits that are no numbers stay none."""
    for place, row in enumerate(rows):
        if row.hold is None:
            continue
        try:
            bias_V = torch.from_numpy(row.hold.bias(logits_BV.shape[-1]))
        except EngineError as fault:
            row.fault, row.finish = fault, "error"
            continue
        logits_BV[place] += bias_V.to(logits_BV.device, logits_BV.dtype)


def _draw(row: Row) -> float:
    assert row.draws is not None, "drawing needs numbers to draw with"
    return float(row.draws[len(row.ids)])


def highest(logits_BV: Tensor) -> tuple[Tensor, Tensor]:
    """(ids_B, peak_B): where each row is highest, the first of several; and how high, which is NaN when any is."""
    num_rows, vocab_size = logits_BV.shape
    if vocab_size % PIECE or logits_BV.device.type != "cpu":
        peak_B, best_B = logits_BV.max(-1)
        return best_B, peak_B
    pieces_BCP = logits_BV.float().view(num_rows, -1, PIECE)  # bf16 is compared one by one, fp32 sixteen at a time
    peak_B, piece_B = pieces_BCP.amax(-1).max(-1)
    place_B = pieces_BCP[torch.arange(num_rows), piece_B].max(-1).indices
    return piece_B * PIECE + place_B, peak_B


def seasoned(logits_V: Tensor, row: Row) -> Tensor:
    """One row's logits with its penalties taken off, and what is too unlikely taken out."""
    extras: SamplingExtras = row.extras
    if extras.repetition != 1 and (seen := sorted({*row.prompt, *row.ids})):
        own = logits_V[seen]
        logits_V[seen] = torch.where(own > 0, own / extras.repetition, own * extras.repetition)
    if row.ids and (extras.presence or extras.frequency):
        counted = Counter(row.ids)
        costs = [extras.presence + extras.frequency * count for count in counted.values()]
        logits_V[list(counted)] -= torch.tensor(costs, device=logits_V.device)
    if extras.min_p and row.sampling.temperature > 0:
        # p_i >= min_p * p_max, where p is of the tempered logits
        floor = logits_V.max() + row.sampling.temperature * math.log(extras.min_p)
        logits_V = logits_V.masked_fill(logits_V < floor, float("-inf"))
    return logits_V


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
    """Where draws_B · total falls in the cumulated weights; never on a weight of 0. A whole vocabulary is cumulated in
    pieces first, and then within the piece."""
    num_rows, num_weights = weights_BK.shape
    if num_weights % PIECE or num_weights <= 4 * PIECE:
        mass_BK = weights_BK.cumsum(-1, dtype=torch.float64)
        return _fallen(mass_BK, draws_B.to(mass_BK) * mass_BK[:, -1])
    pieces_BCP = weights_BK.view(num_rows, -1, PIECE)
    mass_BC = pieces_BCP.sum(-1, dtype=torch.float64).cumsum(-1)
    aim_B = draws_B.to(mass_BC) * mass_BC[:, -1]
    piece_B = _fallen(mass_BC, aim_B)
    before_B = F.pad(mass_BC, (1, 0)).gather(1, piece_B[:, None])[:, 0]
    own_BP = pieces_BCP[torch.arange(num_rows, device=piece_B.device), piece_B]
    return piece_B * PIECE + _fallen(own_BP.cumsum(-1, dtype=torch.float64), aim_B - before_B)


def _fallen(mass_BK: Tensor, aim_B: Tensor) -> Tensor:
    found_B = torch.searchsorted(mass_BK, aim_B[:, None], right=True)[:, 0]
    last_B = (mass_BK < mass_BK[:, -1:]).sum(-1)  # the last one with weight, where round-off aimed past the end
    return torch.minimum(found_B, last_B)
