"""Attention over cached keys and values: queries of one token a row (`DecodeAttention`), and of prompts' tokens
(`PrefillAttention`), against the rows of a table. What is the same in every layer is made once a step.

Scores are matrix products written out: query heads that share a key head are rows of one product, and no key is copied.
Long prompts go through torch's own attention, which never holds all scores.

Shapes: T tokens end to end, B rows, N prompts, L tokens of the longest, M places looked at, H query heads, K key/value
heads, S = H / K that share one, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

from danlu.engines.kv_tables import Table
from danlu.model.spec import Spec

LENGTH_STEP = 32
"""A table is looked at in steps of so many places: each length is a kernel of its own to oneDNN."""
MOST_SCORES = 1 << 22
"""So many scores of one prompt may lie in memory at once."""


class Prefix:
    """Tokens that many prompts begin with, and their keys and values in each layer, [K, P, D]."""

    def __init__(self, ids: Sequence[int], lens: object) -> None:
        self.ids, self.lens, self.length = tuple(ids), lens, len(ids)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def keep(self, table: Table, place: int) -> None:
        """From a row that begins with these tokens."""
        self.keys = [keys[place, :, : self.length].clone() for keys in table.keys]
        self.values = [values[place, :, : self.length].clone() for values in table.values]

    def fits(self, ids: Sequence[int], lens: object) -> bool:
        """Whether a prompt begins so, with at least one token of its own behind."""
        return lens is self.lens and len(ids) > self.length and tuple(ids[: self.length]) == self.ids


class _CachedAttention:
    """Tokens [begin, end) of a flat row, and the rows of one table that they belong to."""

    def __init__(self, spec: Spec, table: Table, begin: int, end: int, length: int) -> None:
        self.spec, self.table, self.begin, self.end = spec, table, begin, end
        self.length = min(table.size, -(-length // LENGTH_STEP) * LENGTH_STEP)
        self.slots_N = torch.empty(0)
        self.hiding: dict[int | None, Tensor] = {}

    def append(self, layer: int, k_TKD: Tensor, v_TKD: Tensor) -> None:
        size = self.spec.head_size
        for held, fresh in ((self.table.keys[layer], k_TKD), (self.table.values[layer], v_TKD)):
            held.view(-1, size).index_copy_(0, self.slots_N, fresh.reshape(-1, size).to(held.dtype))

    def attended(self, layer: int, rows_XSD: Tensor, first: int, num_rows: int) -> Tensor:
        """rows of queries over the keys of table rows [first, first + num_rows), a batch entry for each key head."""
        spec, num_kv = self.spec, self.spec.num_kv_heads
        keys, values = (
            held.view(-1, self.table.size, spec.head_size)[first * num_kv : (first + num_rows) * num_kv, : self.length]
            for held in (self.table.keys[layer], self.table.values[layer])
        )
        keys, values = keys.to(rows_XSD.dtype), values.to(rows_XSD.dtype)
        hiding = self.hiding[spec.windows[layer]]
        cap = spec.attention_softcap
        if cap is None:
            scores = torch.baddbmm(hiding, rows_XSD, keys.transpose(1, 2), alpha=spec.attention_scale)
        else:
            scores = torch.tanh(rows_XSD @ keys.transpose(1, 2) * (spec.attention_scale / cap)) * cap + hiding
        return torch.bmm(scores.softmax(-1), values)


class DecodeAttention(_CachedAttention):
    """One token for each row in use of a table."""

    def __init__(self, spec: Spec, table: Table, begin: int) -> None:
        super().__init__(spec, table, begin, begin + len(table.rows), table.longest + 1)
        num_rows, num_kv = len(table.rows), spec.num_kv_heads
        lengths_B1 = torch.tensor(table.lengths, device=table.device)[:, None]
        first_BK = torch.arange(num_rows * num_kv, device=table.device).view(num_rows, num_kv) * table.size
        self.slots_N = (first_BK + lengths_B1).flatten()
        behind_BM = lengths_B1 - torch.arange(self.length, device=table.device)
        for window in dict.fromkeys(spec.windows):
            hiding_BM = _hiding(behind_BM, window, torch.float32)
            self.hiding[window] = hiding_BM[:, None].expand(-1, num_kv, -1).reshape(-1, 1, self.length)

    def at(self, layer: int, q_BHD: Tensor) -> Tensor:
        num_rows, num_kv = len(q_BHD), self.spec.num_kv_heads
        rows = q_BHD.reshape(num_rows * num_kv, -1, self.spec.head_size)
        return self.attended(layer, rows, 0, num_rows).view(num_rows, -1)

    def done(self) -> None:
        self.table.lengths = [length + 1 for length in self.table.lengths]


class PrefillAttention(_CachedAttention):
    """Prompts, or parts of them, for rows [first, first + N) of a table that hold `start` tokens each."""

    def __init__(
        self, spec: Spec, table: Table, first: int, counts: Sequence[int], start: int, begin: int, prefix: Prefix | None
    ) -> None:
        longest = max(counts)
        super().__init__(spec, table, begin, begin + sum(counts), start + longest)
        self.first, self.counts, self.start, self.prefix = first, counts, start, prefix
        device, num_kv, num_rows = table.device, spec.num_kv_heads, len(counts)
        counts_N = torch.tensor(counts, device=device)
        row_T = torch.arange(num_rows, device=device).repeat_interleave(counts_N)
        inside_T = torch.cat([torch.arange(count, device=device) for count in counts])
        heads_K = torch.arange(num_kv, device=device)
        own_TK = (first + row_T)[:, None] * num_kv + heads_K
        self.slots_N = (own_TK * table.size + (start + inside_T)[:, None]).flatten()
        self.is_even = len(set(counts)) == 1
        self.longest, self.num_rows = longest, num_rows
        # padded [N, K, L] -> place of the token's heads in [T, K], and back
        begins_N = torch.cat((counts_N.new_zeros(1), counts_N.cumsum(0)[:-1]))
        steps_L = torch.arange(longest, device=device)
        token_NL = torch.minimum(begins_N[:, None] + steps_L, (begins_N + counts_N - 1)[:, None])
        self.pick_X = (token_NL[:, None, :] * num_kv + heads_K[None, :, None]).flatten()
        self.back_X = ((row_T[:, None] * num_kv + heads_K) * longest + inside_T[:, None]).flatten()
        behind_LM = start + steps_L[:, None] - torch.arange(self.length, device=device)
        num_shared = spec.num_heads // num_kv
        self.is_long = spec.attention_softcap is None and num_shared * num_kv * behind_LM.numel() > MOST_SCORES
        for window in dict.fromkeys(spec.windows):
            hiding_LM = _hiding(behind_LM, window, torch.float32)
            self.hiding[window] = hiding_LM if self.is_long else hiding_LM.repeat_interleave(num_shared, dim=0)[None]

    def at(self, layer: int, q_THD: Tensor) -> Tensor:
        spec, num_kv = self.spec, self.spec.num_kv_heads
        if self.prefix is not None:
            last = self.first + self.num_rows
            self.table.keys[layer][self.first : last, :, : self.start] = self.prefix.keys[layer]
            self.table.values[layer][self.first : last, :, : self.start] = self.prefix.values[layer]
        rows = q_THD.reshape(len(q_THD) * num_kv, -1).index_select(0, self.pick_X)
        if self.is_long:
            out = self._long(layer, rows)
        else:
            rows = rows.view(self.num_rows * num_kv, -1, spec.head_size)
            out = self.attended(layer, rows, self.first, self.num_rows)
        return out.view(self.num_rows * num_kv * self.longest, -1).index_select(0, self.back_X).view(len(q_THD), -1)

    def _long(self, layer: int, rows: Tensor) -> Tensor:
        spec = self.spec
        shape = (self.num_rows, spec.num_kv_heads, self.longest, -1, spec.head_size)
        q_NHLD = rows.view(shape).transpose(2, 3).flatten(1, 2)
        keys, values = (
            held[self.first : self.first + self.num_rows, :, : self.length].to(rows.dtype)
            for held in (self.table.keys[layer], self.table.values[layer])
        )
        out_NHLD = F.scaled_dot_product_attention(
            q_NHLD, keys, values, attn_mask=self.hiding[spec.windows[layer]], scale=spec.attention_scale,
            enable_gqa=spec.num_heads > spec.num_kv_heads,
        )  # fmt: skip
        return out_NHLD.view(*shape[:2], -1, self.longest, spec.head_size).transpose(2, 3).contiguous()

    def done(self) -> None:
        for place, count in enumerate(self.counts, start=self.first):
            self.table.lengths[place] = self.start + count


def _hiding(behind_XM: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    """To add to scores: -inf where a place holds nothing yet, or a window does not reach. `behind` is how far back."""
    is_hidden = behind_XM < 0
    if window is not None:
        is_hidden |= behind_XM >= window
    return torch.zeros(behind_XM.shape, dtype=dtype, device=behind_XM.device).masked_fill_(is_hidden, float("-inf"))
