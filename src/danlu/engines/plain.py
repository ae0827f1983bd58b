"""Rows through a `Model` as it is: any architecture, any device, any weights. Whole prompts, one lens for all rows: the
adapter that is attached, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from danlu.engines.rows import Row, Span
from danlu.model.model import Model
from danlu.ops.attention import Bounds


class Plain:
    """A `rows.Forward` with seats for `num_rows` rows of `max_tokens` each. `switched` sets the weights for one call,
    never across a pause: a paused answer must not change what another engine on the same weights says."""

    splits = False

    def __init__(
        self, model: Model, num_rows: int, max_tokens: int, switched: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.model, self.switched = model, switched
        self.cache = model.new_cache(num_rows, max_tokens)
        self.cache.empty()
        self.rows: list[Row] = []

    def begin(self, rows: Sequence[Row]) -> None:
        """Nothing is known of a prompt before it is computed."""

    def run(self, spans: Sequence[Span]) -> tuple[list[Row], Tensor]:
        hidden: list[Tensor] = []
        with self.switched():
            if self.rows:
                latest_B = torch.tensor([row.ids[-1] for row in self.rows], device=self.model.device)
                hidden.append(self.model.step(latest_B, self.cache))
            if spans:
                assert all(span.start == 0 and span.is_last for span in spans), "prompts come whole"
                fresh = self.model.new_cache(len(spans), max(span.end for span in spans))
                prompts = [torch.tensor(span.row.prompt) for span in spans]
                hidden.append(self.model.prefill(prompts, fresh))
                self.cache.adopt(fresh)
            for span in spans:
                if span.row.is_mean:
                    span.row.sum_D = self._sum(span.row.prompt)
        for span in spans:
            assert span.row.lens is None, "a model as it is has no lenses"
            span.row.num_done = span.end
            self.rows.append(span.row)
        return list(self.rows), torch.cat(hidden)

    def _sum(self, prompt: Sequence[int]) -> Tensor:
        """sum_D of the hidden states. A second pass: `prefill` gives the last of them only."""
        bounds = Bounds.of([len(prompt)])
        ids_T = torch.tensor(prompt, device=self.model.device)
        return self.model.hidden(ids_T, bounds.positions(ids_T.device), bounds).sum(0, dtype=torch.float32)

    def leave(self, rows: Sequence[Row]) -> None:
        gone = set(map(id, rows))
        places = [place for place, row in enumerate(self.rows) if id(row) in gone]
        if places:
            for source, target in self.cache.drop(places):
                self.rows[target] = self.rows[source]
            del self.rows[self.cache.num_rows :]

    def logits(self, hidden_ND: Tensor) -> Tensor:
        return self.model.logits(hidden_ND)
