"""The next tokens, chosen on the card: the likeliest, or drawn by `sampling.choose` with each row's own numbers, so
that they are what the host would choose. Nobody waits, but where a nucleus without top-k must be looked for twice.

Shapes: B rows, V vocabulary, S rows that draw alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.engines.rows import Row
from danlu.engines.sampling import choose


def is_simple(row: Row) -> bool:
    """Whether the row's token hangs on its logits and numbers alone, and nothing else is told of it."""
    return row.hold is None and row.extras.is_plain and row.extras.num_likeliest is None


def likeliest(logits_BV: Tensor) -> tuple[Tensor, Tensor]:
    """(picks_B, ids_B): the likeliest tokens, in the first -1 for those whose logits are no numbers."""
    peak_B, ids_B = logits_BV.max(-1)
    return ids_B.masked_fill(~peak_B.isfinite(), -1), ids_B


def draw(logits_BV: Tensor, rows: Sequence[Row], num_untaken: int, picks_B: Tensor, ids_B: Tensor) -> None:
    """Drawn tokens in the places of rows that draw, which have `num_untaken` tokens more than the host knows of. A pick
    of -1 stays."""
    alike: dict[tuple[float, float, int], list[int]] = {}
    for place, row in enumerate(rows):
        if row.sampling.temperature > 0:
            alike.setdefault((row.sampling.temperature, row.sampling.top_p, row.sampling.top_k), []).append(place)
    for places in alike.values():
        numbers_S = to_card([_number(rows[place], num_untaken) for place in places], torch.float64, logits_BV.device)
        places_S = to_card(places, torch.long, logits_BV.device)
        drawn_S, _ = choose(logits_BV[places_S].float(), rows[places[0]].sampling, numbers_S)
        own_S = picks_B[places_S]
        ids_B[places_S] = drawn_S
        picks_B[places_S] = torch.where(own_S < 0, own_S, drawn_S)


def _number(row: Row, num_untaken: int) -> float:
    assert row.draws is not None, "drawing needs numbers to draw with"
    return float(row.draws[min(len(row.ids) + num_untaken, len(row.draws) - 1)])  # who is done draws once too often


def to_card(values: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of these numbers, without waiting for the card."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)
