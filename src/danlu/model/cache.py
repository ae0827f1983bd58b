"""KVCache: keys and values of a batch of texts of different lengths, allocated once.

Each row has its own length, so no row ever sees another's padding. Rows in use stand first: one that is done is
dropped, the last one moves into its place, and fresh ones are adopted behind. Sliding windows are a matter of what a
step looks at, not of what is kept.

Shapes: B rows, H query heads, K key/value heads, M most tokens per row, D head size,
S = H / K query heads that share one.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from danlu.ops.attention import Bounds


class KVCache:
    """`lengths_B` counts the tokens that each row in use holds; `longest` is their maximum, kept in Python to spare a
    device sync. All rows are in use until `empty`."""

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
        self._lengths = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.num_rows = num_rows
        self.longest = 0
        self.max_tokens = max_tokens

    @property
    def lengths_B(self) -> Tensor:  # noqa: N802 - rows of it
        return self._lengths[: self.num_rows]

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
        self._lengths.copy_(torch.tensor(bounds.lengths))
        self.longest = bounds.max_length

    def empty(self) -> None:
        """No row is in use; the room stays."""
        self.num_rows = self.longest = 0

    def adopt(self, other: KVCache) -> None:
        """The rows of a filled cache behind those in use."""
        first, last, length = self.num_rows, self.num_rows + other.num_rows, other.longest
        assert last <= len(self._lengths), "a cache adopts as many rows as it has room for"
        for mine, theirs in zip((*self.keys, *self.values), (*other.keys, *other.values), strict=True):
            mine[first:last, :, :length] = theirs[: other.num_rows, :, :length]
        self._lengths[first:last] = other.lengths_B
        self.num_rows, self.longest = last, max(self.longest, length)

    def drop(self, rows: list[int]) -> list[tuple[int, int]]:
        """These rows are done. The last ones move into their places: the (from, to) that whoever counts along needs."""
        gone = set(rows)
        num_left = self.num_rows - len(gone)
        staying = [row for row in range(num_left, self.num_rows) if row not in gone]
        moves = list(zip(staying, sorted(row for row in gone if row < num_left), strict=True))
        if moves:
            sources, targets = torch.tensor(moves, device=self._lengths.device).T
            for held in (*self.keys, *self.values):
                held[targets, :, : self.longest] = held[sources, :, : self.longest]
            self._lengths[targets] = self._lengths[sources]
        self.num_rows = num_left
        self.longest = int(self.lengths_B.max()) if num_left else 0
        return moves

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
        k_BKMD = self.keys[layer][: self.num_rows, :, : self.longest + 1].to(q_BHD.dtype)
        v_BKMD = self.values[layer][: self.num_rows, :, : self.longest + 1].to(q_BHD.dtype)
        places_M = torch.arange(self.longest + 1, device=q_BHD.device)
        mask_BM = places_M <= self.lengths_B[:, None]
        if window is not None:
            mask_BM &= places_M > self.lengths_B[:, None] - window
        return _look(q_BHD, k_BKMD, v_BKMD, mask_BM, scale, softcap)

    def advance(self) -> None:
        """After a step: every row is one token longer."""
        self._lengths[: self.num_rows] += 1
        self.longest += 1


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
