"""The contract of a model: what the trainer, the engines and the exports may ask of it. Two things fulfil it: our own
`decoder.Decoder` and `families.hf.ForeignModel`.

Shapes: T tokens of all documents laid end to end, N supervised ones, B rows in generation, D hidden, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from danlu.model.cache import KVCache
from danlu.model.prefix import Prefix
from danlu.model.spec import Spec
from danlu.ops.attention import Bounds
from danlu.ops.cross_entropy import linear_cross_entropy, rows_per_chunk, token_log_probs


class Quick(Protocol):
    """Another way to compute `hidden_at`, faster; training puts it on a model."""

    def __call__(self, ids_T: Tensor, positions_T: Tensor, bounds: Bounds, rows_S: Tensor | None) -> Tensor:
        """hidden after the final norm: all rows, or those asked for."""
        ...


class Model(nn.Module, ABC):
    """A causal language model over a flat token layout.

    Parameter names are the Hugging Face checkpoint's (fused ones split). `spec` is the shape, `folder` holds config
    and tokenizer, `config` is `config.json` as it was read.
    """

    spec: Spec
    folder: Path
    config: dict[str, Any]

    def __init__(self, spec: Spec, folder: Path, config: dict[str, Any]) -> None:
        super().__init__()
        self.spec, self.folder, self.config = spec, folder, config
        self._digest: str | Callable[[], str] = ""
        self.prefix: Prefix | None = None
        """What stands before every document, where one is attached; our own decoder's alone."""
        self.quick: Quick | None = None
        """Set while a training owns this model's weights; generation never uses it."""
        self.logits_bytes: int | None = None
        """Most bytes of logits that a loss may hold at once; None leaves it to the loss."""

    @abstractmethod
    def hidden(self, ids_T: Tensor, positions_T: Tensor, bounds: Bounds, cache: KVCache | None = None) -> Tensor:
        """hidden_TD after the final norm. Documents see only themselves. With an empty `cache`, document n also
        fills row n."""

    def hidden_at(self, ids_T: Tensor, positions_T: Tensor, bounds: Bounds, rows_S: Tensor) -> Tensor:
        """hidden_SD: rows of `hidden`, of which nothing else is needed."""
        if self.quick is not None:
            return self.quick(ids_T, positions_T, bounds, rows_S)
        return self.hidden(ids_T, positions_T, bounds).index_select(0, rows_S)

    @abstractmethod
    def logits(self, hidden_ND: Tensor) -> Tensor:
        """logits_NV, soft-capped where the family does; for a few rows. Losses use the two functions below."""

    @abstractmethod
    def new_cache(self, num_rows: int, max_tokens: int) -> KVCache:
        """Room for `num_rows` texts of up to `max_tokens` tokens each."""

    @abstractmethod
    def step(self, ids_B: Tensor, cache: KVCache) -> Tensor:
        """hidden_BD of one more token per row; each row continues at its own length."""

    @property
    @abstractmethod
    def head_weight(self) -> Tensor:
        """weight_VD of the head, tied or not."""

    def loss(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        """Σ -log p(target), fp32; the [N, V] logits never exist as a whole."""
        rows = self._rows_at_once(len(hidden_ND))
        return linear_cross_entropy(
            hidden_ND, self.head_weight, targets_N, softcap=self.spec.logit_softcap, chunk_rows=rows
        )

    def log_probs(self, hidden_ND: Tensor, targets_N: Tensor, temperature: float = 1.0) -> Tensor:
        """log p(target) per row, fp32, natural, of logits / temperature; the [N, V] logits never exist as a whole."""
        rows, cap = self._rows_at_once(len(hidden_ND)), self.spec.logit_softcap
        if temperature != 1:  # c tanh(h·w / c) / t is (c/t) tanh((h/t)·w / (c/t))
            hidden_ND, cap = hidden_ND / temperature, cap / temperature if cap is not None else None
        return token_log_probs(hidden_ND, self.head_weight, targets_N, softcap=cap, chunk_rows=rows)

    def _rows_at_once(self, num_rows: int) -> int:
        """0 leaves it to the loss."""
        if self.logits_bytes is None:
            return 0
        head = self.head_weight
        return rows_per_chunk(num_rows, len(head), head.element_size(), self.logits_bytes)

    def forward(self, ids_T: Tensor, positions_T: Tensor, bounds: Bounds, cache: KVCache | None = None) -> Tensor:
        return self.hidden(ids_T, positions_T, bounds, cache)

    @torch.no_grad()
    def prefill(self, prompts: list[Tensor], cache: KVCache) -> Tensor:
        """hidden_BD of each prompt's last token; prompts of any lengths, no padding between them."""
        bounds = Bounds.of([len(prompt) for prompt in prompts])
        hidden_TD = self.hidden(torch.cat(prompts).to(self.device), bounds.positions(self.device), bounds, cache)
        last_B = torch.tensor(bounds.cu_seqlens[1:], device=self.device) - 1
        return hidden_TD[last_B]

    @property
    def digest(self) -> str:
        """Identifies the weights as they were loaded (not as training left them); computed when first asked."""
        if callable(self._digest):
            self._digest = self._digest()
        return self._digest

    @property
    def context(self) -> int:
        """Most tokens of a text: what the model was made for, less what stands before it."""
        return self.spec.context - (self.prefix.num_tokens if self.prefix is not None else 0)

    @property
    def device(self) -> torch.device:
        return self.head_weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.head_weight.dtype
