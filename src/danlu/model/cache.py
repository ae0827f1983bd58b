"""KVCache: keys and values of a batch of texts of different lengths, allocated once.

Each row has its own length, so no row ever sees another's padding. Rows that are done can be dropped with `keep`.
Sliding windows are a matter of what a step looks at, not of what is kept.

Shapes: B rows, H query heads, K key/value heads, M most tokens per row, D head size,
S = H / K query heads that share one.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from danlu.ops.attention import Bounds


class KVCache:
    """`lengths_B` counts the tokens each row holds; `longest` is their maximum, kept in Python to spare a device
    sync."""

    def __init__(
        self,
        num_layers: int,
        num_rows: int,
        num_kv_heads: int,
        max_tokens: int,
        head_size: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_rows, num_kv_heads, max_tokens, head_size)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.lengths_B = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.longest = 0
        self.max_tokens = max_tokens

    @property
    def num_rows(self) -> int:
        return len(self.lengths_B)

    def fill(self, layer: int, k_TKD: Tensor, v_TKD: Tensor, bounds: Bounds) -> None:
        """Document n's keys and values into row n, from its start. `commit` the lengths after the last layer."""
        assert self.longest == 0, "a cache is filled once"
        assert bounds.num_documents == self.num_rows, "one document per row"
        assert bounds.max_length <= self.max_tokens, f"a prompt of {bounds.max_length} in {self.max_tokens} places"
        for row, (start, end) in enumerate(itertools.pairwise(bounds.cu_seqlens)):
            self.keys[layer][row, :, : end - start] = k_TKD[start:end].transpose(0, 1)
            self.values[layer][row, :, : end - start] = v_TKD[start:end].transpose(0, 1)

    def commit(self, bounds: Bounds) -> None:
        """After a fill: the rows now hold these lengths."""
        self.lengths_B.copy_(torch.tensor(bounds.lengths))
        self.longest = bounds.max_length

    def attend(
        self,
        layer: int,
        q_BHD: Tensor,
        k_BKD: Tensor,
        v_BKD: Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Append one key and value per row and let the query see its row. out_BHD. `advance` after the last layer."""
        assert self.longest < self.max_tokens, f"the cache's {self.max_tokens} places are full"
        rows_B = torch.arange(self.num_rows, device=q_BHD.device)
        self.keys[layer][rows_B, :, self.lengths_B] = k_BKD.to(self.keys[layer].dtype)
        self.values[layer][rows_B, :, self.lengths_B] = v_BKD.to(self.values[layer].dtype)
        k_BKMD = self.keys[layer][:, :, : self.longest + 1].to(q_BHD.dtype)
        v_BKMD = self.values[layer][:, :, : self.longest + 1].to(q_BHD.dtype)
        places_M = torch.arange(self.longest + 1, device=q_BHD.device)
        mask_BM = places_M <= self.lengths_B[:, None]
        if window is not None:
            mask_BM &= places_M > self.lengths_B[:, None] - window
        return _look(q_BHD, k_BKMD, v_BKMD, mask_BM, scale, softcap)

    def advance(self) -> None:
        """After a step: every row is one token longer."""
        self.lengths_B += 1
        self.longest += 1

    def keep(self, rows: Tensor) -> None:
        """Drop every row that is not listed (a long tensor of row numbers, in their new order)."""
        rows = rows.to(self.lengths_B.device)
        self.keys = [k.index_select(0, rows) for k in self.keys]
        self.values = [v.index_select(0, rows) for v in self.values]
        self.lengths_B = self.lengths_B.index_select(0, rows)
        self.longest = int(self.lengths_B.max()) if len(rows) else 0


def _look(
    q_BHD: Tensor, k_BKMD: Tensor, v_BKMD: Tensor, mask_BM: Tensor, scale: float, softcap: float | None
) -> Tensor:
    """Attention of one query per row, written out: it is bound by reading the cache, and a fused kernel that plans anew
    for each length (as cuDNN's does) costs fifty times what it saves."""
    q_BKSD = q_BHD.view(len(q_BHD), k_BKMD.shape[1], -1, q_BHD.shape[-1])
    scores_BKSM = q_BKSD @ k_BKMD.transpose(-2, -1) * scale
    if softcap is not None:
        scores_BKSM = torch.tanh(scores_BKSM / softcap) * softcap
    wide = scores_BKSM if scores_BKSM.dtype == torch.float64 else scores_BKSM.float()
    weights_BKSM = wide.masked_fill(~mask_BM[:, None, None], float("-inf")).softmax(-1).to(v_BKMD.dtype)
    out_BHD: Tensor = (weights_BKSM @ v_BKMD).flatten(1, 2)
    return out_BHD
