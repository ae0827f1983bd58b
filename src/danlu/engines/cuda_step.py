"""The sums of one pass on a card, and a step of decoding that the card repeats by itself.

A step of decoding is hundreds of small kernels, and a host needs longer to launch them than a card to compute. Its
inputs lie in `Seats`, buffers that never move, and its last kernels make the next step's inputs; so a step of a size
that has come before is recorded once (a CUDA graph) and then launched as one. Nothing in it waits for the host.

Shapes: T tokens of a pass, B seats in use, D hidden, N outputs, X = heads times head size, V vocabulary, P pages of a
row.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from danlu.engines.cuda_attention import AttentionShape, PagedKV, decode, parts_of, place
from danlu.engines.cuda_choice import likeliest
from danlu.engines.cuda_lenses import CardLensing
from danlu.engines.cuda_pages import Pages
from danlu.engines.cuda_weights import CardLayer, scratch_for
from danlu.engines.lenses import Lensing
from danlu.model.decoder import Block, Decoder
from danlu.ops.gated import gated_forward
from danlu.ops.rms_norm import norm_forward

FROM_TIMES = 2
"""A step runs so often as it is, which also compiles its kernels, before it is recorded."""
MOST_RECORDS = 48


Attend = Callable[[int, Tensor, PagedKV], Tensor]
"""How a layer's queries attend to keys: its number and q_TX to out_TX."""


class Sums:
    """Our decoder's forward over weights side by side."""

    def __init__(self, model: Decoder) -> None:
        self.model, self.spec = model, model.spec
        scratch, may_move = scratch_for(model), model.quick is None  # what trains knows where its weights lie
        blocks = [block for block in model.model.layers if isinstance(block, Block)]
        self.layers = [CardLayer.of(block, scratch, may_move=may_move) for block in blocks]
        self.shapes = [AttentionShape.of(model.spec, layer) for layer in range(model.spec.num_layers)]
        self.head_DV = model.head_weight.detach().T
        scale = model.spec.embed_scale  # rounded to the weights' dtype, as `Trunk.embed` does
        self.embed_scale = None if scale == 1 else torch.tensor(scale, dtype=model.dtype, device=model.device)

    def hidden(
        self, ids_T: Tensor, positions_T: Tensor, reach_T: Tensor | None, rows_T: Tensor, table_BP: Tensor,
        pages: Pages, attend: Attend, lensing: Lensing | None,
    ) -> Tensor:  # fmt: skip
        """hidden_TD after the final norm; keys and values are put where the tables of `rows_T` say."""
        x_TD = self.model.model.embed_tokens(ids_T)
        if self.embed_scale is not None:
            x_TD = x_TD * self.embed_scale
        turns = self.model.model.turns(positions_T.clamp(min=0), x_TD.dtype, reach_T)
        norms = [layer.norm_in for layer in self.layers[1:]] + [self.model.model.norm]
        first = self.layers[0].norm_in
        normed_TD, _ = norm_forward(x_TD, first.weight, first.eps, first.offset)
        for number, (layer, rope, after) in enumerate(zip(self.layers, self.spec.ropes, norms, strict=True)):
            kv = PagedKV(pages.keys[number], pages.values[number], table_BP)
            qkv_TN = self._times(number, 0, normed_TD, lensing)
            q_TX = place(qkv_TN, turns[rope], layer.heads, kv, rows_T, positions_T, self.shapes[number])
            mixed_TD = self._times(number, 1, attend(number, q_TX, kv), lensing)
            if (norm := layer.norm_mixed) is not None:
                mixed_TD, _ = norm_forward(mixed_TD, norm.weight, norm.eps, norm.offset)
            norm = layer.norm_fed
            normed_TD, _ = norm_forward(x_TD, norm.weight, norm.eps, norm.offset, add_TD=mixed_TD, sum_TD=x_TD)
            wide_TE = self._times(number, 2, normed_TD, lensing)
            fed_TD = self._times(number, 3, gated_forward(wide_TE, layer.activation), lensing)
            if (norm := layer.norm_out) is not None:
                fed_TD, _ = norm_forward(fed_TD, norm.weight, norm.eps, norm.offset)
            normed_TD, _ = norm_forward(x_TD, after.weight, after.eps, after.offset, add_TD=fed_TD, sum_TD=x_TD)
        return normed_TD

    def logits(self, hidden_ND: Tensor, out_NV: Tensor | None = None) -> Tensor:
        logits_NV = torch.mm(hidden_ND, self.head_DV, out=out_NV)
        cap = self.spec.logit_softcap
        return logits_NV if cap is None else logits_NV.div_(cap).tanh_().mul_(cap)

    def _times(self, number: int, product: int, x_TD: Tensor, lensing: Lensing | None) -> Tensor:
        multiply = self.layers[number].products[product]
        if isinstance(lensing, CardLensing):
            return lensing.beside(number, product, x_TD, multiply)
        out_TN = multiply(x_TD)
        if lensing is not None:
            lensing.add(number, product, x_TD, out_TN)
        return out_TN


class Seats:
    """What a step reads and makes. A seat that is free, or only fills up a recorded size, stands at position -1."""

    def __init__(self, num: int, most_pages: int, model: Decoder) -> None:
        device = model.device
        self.ids_B = torch.zeros(num, dtype=torch.long, device=device)
        self.positions_B = torch.full((num,), -1, dtype=torch.int32, device=device)
        self.owners_B = torch.full((num,), -1, dtype=torch.int32, device=device)
        self.table_BP = torch.zeros(num, most_pages, dtype=torch.int32, device=device)
        self.rows_B = torch.arange(num, dtype=torch.int32, device=device)
        self.logits_BV = torch.zeros(num, model.spec.vocab_size, dtype=model.dtype, device=device)
        self.picks_B = torch.zeros(num, dtype=torch.long, device=device)
        """Each seat's likeliest token, -1 where its logits are no numbers."""


def decode_step(sums: Sums, seats: Seats, pages: Pages, num: int, lensing: Lensing | None) -> None:
    """One more token for the first `num` seats: logits, the likeliest, and all that the next step wants."""
    positions_B = seats.positions_B[:num]
    num_parts = parts_of(num, sums.spec.num_kv_heads, positions_B.device)

    def attend(layer: int, q_BX: Tensor, kv: PagedKV) -> Tensor:
        return decode(q_BX, kv, positions_B, sums.shapes[layer], num_parts)

    hidden_BD = sums.hidden(
        seats.ids_B[:num], positions_B, None, seats.rows_B[:num], seats.table_BP, pages, attend, lensing
    )
    logits_BV = sums.logits(hidden_BD, seats.logits_BV[:num])
    picks_B, ids_B = likeliest(logits_BV)
    seats.picks_B[:num] = picks_B
    seats.ids_B[:num] = ids_B
    positions_B += (positions_B >= 0).to(positions_B.dtype)


class Recorder:
    """Work that comes again and again, recorded after a while and then repeated as one launch. On a CPU it is done as
    it is. Whoever records keeps alive what the work touches."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._times: Counter[Hashable] = Counter()
        self._records: OrderedDict[Hashable, torch.cuda.CUDAGraph] = OrderedDict()
        self._room = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        """Memory that all records share: one runs at a time."""

    def do(self, key: Hashable, work: Callable[[], None]) -> None:
        if self.device.type != "cuda" or (key not in self._records and self._times[key] < FROM_TIMES):
            self._times[key] += 1
            work()
            return
        if key not in self._records:
            self._records[key] = self._recorded(work)
            if len(self._records) > MOST_RECORDS:
                self._records.popitem(last=False)
        self._records.move_to_end(key)
        self._records[key].replay()

    def _recorded(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Other threads may use the card meanwhile: what they do is none of this record's."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=self._room, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        return graph

    def forget(self) -> None:
        """Nothing that was recorded may be under way."""
        self._times.clear()
        self._records.clear()
        if self._room is not None:
            self._room = torch.cuda.graph_pool_handle()  # the old one went with its last record


def padded(num: int, most: int) -> int:
    """Seats that a step for so many rows computes: few sizes, so that few are recorded."""
    step = 8 if num <= 64 else 16 if num <= 128 else 32
    size = 1 << (num - 1).bit_length() if num <= 8 else -(-num // step) * step
    return min(size, most)
