"""Our decoder's forward for answering: the same sums as `model/decoder.py`, in fewer and better laid out pieces, over a
flat row of tokens in which rows that write and prompts that are read stand side by side. Torch only; no compiler is
needed.

Weights are packed (`products.py`); the residual stream, rotations and scores are fp32 whatever the weights are. What
many prompts begin with is computed once. `packed` copies the weights as they are now; whoever changes them packs again.

Shapes: T tokens end to end, D hidden, H query heads, K key/value heads, N outputs, R ranks side by side, P shared
tokens, S tokens whose hidden is wanted.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

from danlu.adapters.lora import LoRALinear
from danlu.engines.cached_attention import DecodeAttention, PrefillAttention, Prefix
from danlu.engines.kv_tables import AHEAD, Table, Tables
from danlu.engines.lenses import Lens, Lensing, Permute, Stacks, is_plain_decoder
from danlu.engines.looped import Looped, LoopedAttention, can_loop, numbers
from danlu.engines.pointwise import Pointwise
from danlu.engines.products import Layer, Norm, head_order, lay_out, make_layer, order_of, times
from danlu.engines.rows import Row, Span
from danlu.model.decoder import Decoder
from danlu.model.model import Model
from danlu.model.quantized import num_params
from danlu.model.quantizers.fp8 import FP8Linear
from danlu.model.quantizers.quantizer import QuantizedLinear
from danlu.model.spec import Spec
from danlu.ops.rope import RopeSpec, rotation

MOST_BYTES = 2 * 2**30
"""A second copy of larger weights is not made."""
SHARED_FROM, SEATED_FROM = 4, 32
"""Tokens that prompts must have in common before those are computed apart; and with a row in a seat, whose keys and
values are only copied, but kept."""
MOST_PREFIXES = 16
WIDE = torch.float32


def packed(model: Model, *, with_adapter: bool, owns: bool = False, loops: bool = True) -> Packed | None:
    """The model's weights packed, with or without the pairs attached to it; None where that is not known: other
    architectures, pairs attached to fp8 layers. Who does not own the model gets None too where a second copy would not
    pay: other devices than a CPU, very large weights. Who does gives the model's own linear weights up for the packed
    ones, which of a quantised base are larger than its codes.
    `loops`: what lies between products is computed in compiled loops, where they run."""
    if not isinstance(model, Decoder) or model.dtype not in (torch.float32, torch.bfloat16):
        return None
    turns_alike = len({rope.rotary_size for rope in model.spec.ropes}) == 1 and model.spec.head_size % 2 == 0
    rounds_pairs = with_adapter and any(
        isinstance(layer, LoRALinear) and isinstance(layer.quantized, FP8Linear) for layer in model.modules()
    )
    if not is_plain_decoder(model) or not turns_alike or rounds_pairs:
        return None
    num_bytes = num_params(model) * model.dtype.itemsize
    if not owns and (model.device.type != "cpu" or num_bytes > MOST_BYTES):
        return None
    with torch.inference_mode(False), torch.no_grad():  # oneDNN lays out tensors of no inference mode only
        made = Packed(model, with_adapter=with_adapter, owns=owns, loops=loops and can_loop(model.device))
    if owns and made.loops:
        made.warm_up()
    return made


class Packed:
    """A `rows.Forward`."""

    splits = True

    def __init__(self, model: Decoder, *, with_adapter: bool, owns: bool = False, loops: bool = False) -> None:
        self.model, self.spec, self.dtype = model, model.spec, model.dtype
        self.loops = loops
        self.pointwise = Looped(model.dtype) if loops else Pointwise(model.dtype)
        self.layers: list[Layer] = []
        for block, rope in zip(model.model.layers, self.spec.ropes, strict=True):
            order_D = head_order(rope, self.spec.head_size)
            self.layers.append(make_layer(block, order_D, self.spec, with_adapter=with_adapter))
            if owns:
                _give_up_weights(block)
        self.norm = Norm(model.model.norm)
        self.head_VD, self.is_head_packed = lay_out(model.head_weight.detach())
        self.stacks = Stacks()
        self.clear()

    def clear(self) -> None:
        """No row, and no memory held for any."""
        # loops widen what they read, so keys and values may be what products say, as the model's own cache holds them
        self.tables = Tables(self.spec, dtype=self.dtype if self.loops else WIDE, device=self.model.device)
        self.unfinished: dict[int, tuple[Row, Table]] = {}
        """Prompts that are not complete yet, each in a table of its own, by the row's identity."""
        self.prefixes: list[Prefix] = []
        self._chosen: dict[int, Prefix] = {}

    def sharing_weights(self) -> Packed:
        """The same weights with rows of its own: for another thread."""
        other = copy.copy(self)
        other.stacks = Stacks()
        other.clear()
        return other

    @property
    def permute(self) -> Permute:
        """How q and k are laid out here; layers must agree for adapters to be told it by name."""
        spec = self.spec
        order_D = head_order(spec.ropes[0], spec.head_size)
        orders = {"q_proj": order_of(order_D, spec.num_heads), "k_proj": order_of(order_D, spec.num_kv_heads)}
        return Permute(orders)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        logits_NV = times(hidden_ND, self.head_VD, None, is_packed=self.is_head_packed)
        cap = self.spec.logit_softcap
        return logits_NV if cap is None else torch.tanh(logits_NV / cap) * cap

    # ---- rows come and go

    def begin(self, rows: Sequence[Row]) -> None:
        """What these prompts share with one another, or with a row in a seat, is theirs already."""
        if any(rope.long_factors for rope in self.spec.ropes):
            return  # a token's angles hang on its whole document's length
        written = [row for row in rows if not row.is_mean]  # of a mean every token's hidden state is wanted
        for lens, group in groupby(sorted(written, key=lambda row: id(row.lens)), key=lambda row: row.lens):
            some = list(group)
            self._learn(lens, some)
            for row in some:
                fitting = [prefix for prefix in self.prefixes if prefix.fits(row.prompt, lens)]
                if fitting:
                    prefix = max(fitting, key=lambda prefix: prefix.length)
                    self._chosen[id(row)] = prefix
                    row.num_done = prefix.length

    def leave(self, rows: Sequence[Row]) -> None:
        self.tables.drop(rows)
        for row in rows:
            self.unfinished.pop(id(row), None)
            self._chosen.pop(id(row), None)

    def run(self, spans: Sequence[Span]) -> tuple[list[Row], Tensor]:
        self.tables.make_room()
        flat = Flat(self.spec, loops=self.loops)
        for table in self.tables:
            flat.look(table)
        for table, first, some, prefix in self._placed(spans):
            flat.fill(table, first, some, prefix)
        hidden_SD = self._through(flat, flat.wanted)
        done = [span for span in spans if span.is_last and id(span.row) in self.unfinished]
        for span in spans:
            span.row.num_done = span.end
            self._chosen.pop(id(span.row), None)
        for span in done:
            _, table = self.unfinished.pop(id(span.row))
            self.tables.table_for(len(span.row.prompt) + AHEAD).adopt(table, [0])
        return [row for _, row in flat.due if row is not None], flat.handed_out(hidden_SD)

    def _placed(self, spans: Sequence[Span]) -> Iterator[tuple[Table, int, list[Span], Prefix | None]]:
        """Spans in groups: rows side by side in one table, of like length (loops pad nothing), that go on from the same
        place."""
        whole = []
        for span in spans:
            prefix = self._chosen.get(id(span.row))
            is_first = span.start == (prefix.length if prefix else 0)
            if is_first and span.is_last:
                whole.append(span)
                continue
            if is_first:
                size = -(-len(span.row.prompt) // AHEAD) * AHEAD
                self.unfinished[id(span.row)] = span.row, self.tables.new(size)
                self.unfinished[id(span.row)][1].seat([span.row])
            yield self.unfinished[id(span.row)][1], 0, [span], prefix if is_first else None

        def kind(span: Span) -> tuple[int, int, int]:
            count = span.end - span.start
            prefix = self._chosen.get(id(span.row))
            table = self.tables.table_for(span.end + AHEAD)
            return table.size, id(prefix) if prefix else 0, 0 if self.loops else max(count, 16).bit_length()

        for (size, _, _), group in groupby(sorted(whole, key=kind), key=kind):
            some, table = list(group), self.tables.by_size[size]
            yield table, table.seat([span.row for span in some]), some, self._chosen.get(id(some[0].row))

    def _learn(self, lens: Lens | None, rows: Sequence[Row]) -> None:
        """Find what these prompts begin with, where no known prefix says nearly as much."""
        prompts = [row.prompt for row in rows]
        known = max((prefix.length for prefix in self.prefixes
                     if all(prefix.fits(prompt, lens) for prompt in prompts)), default=0)  # fmt: skip
        if len(prompts) > 1:
            length = min(_common(prompts[0], prompt) for prompt in prompts[1:])
            length = min(length, min(map(len, prompts)) - 1)  # a prompt has a token of its own left
            if length >= max(SHARED_FROM, 2 * known):
                self._remember(self._computed(prompts[0][:length], lens))
                known = length
        best = max(
            ((_common(prompts[0], row.prompt), table, place) for table in self.tables
             for place, row in enumerate(table.rows) if row.lens is lens),
            key=lambda found: found[0], default=None,
        )  # fmt: skip
        if best is not None:
            length = min(best[0], len(prompts[0]) - 1)
            if length >= max(SEATED_FROM, known + SEATED_FROM):
                prefix = Prefix(prompts[0][:length], lens)
                prefix.keep(best[1], best[2])
                self._remember(prefix)

    def _remember(self, prefix: Prefix) -> None:
        self.prefixes = [*self.prefixes[1 - MOST_PREFIXES :], prefix]
        while sum(prefix.length for prefix in self.prefixes) > max(self.spec.context, prefix.length):
            del self.prefixes[0]

    def _computed(self, ids: Sequence[int], lens: Lens | None) -> Prefix:
        prefix, row = Prefix(ids, lens), Row(-1, list(ids), 0, lens=lens)
        table = self.tables.new(-(-len(ids) // AHEAD) * AHEAD)
        flat = Flat(self.spec, loops=self.loops)
        flat.fill(table, table.seat([row]), [Span(row, 0, len(ids))], None)
        with torch.inference_mode():
            self._through(flat, [0])
        prefix.keep(table, 0)
        return prefix

    def warm_up(self) -> None:
        """Once through all loops: who asks first does not wait until they are loaded, or compiled."""
        self._computed([0], None)

    def forget(self, lens: Lens) -> None:
        """The lens is gone: nothing of it is kept but what its rows in seats still need."""
        self.prefixes = [prefix for prefix in self.prefixes if prefix.lens is not lens]
        self.stacks.forget()

    # ---- the sums

    def _through(self, flat: Flat, wanted: list[int]) -> Tensor:
        """hidden_SD, with the final norm, of the wanted tokens: the last layer's feed-forward computes no others."""
        spec, device = self.spec, self.model.device
        ids_T, positions_T = torch.tensor(flat.ids, device=device), torch.tensor(flat.positions, device=device)
        turns = self._turns(positions_T, flat.reaches)
        lensing = self.stacks.lensing(flat.lenses, device)
        x_TD = self.model.model.embed(ids_T).to(WIDE)
        if x_TD.data_ptr() == self.model.model.embed_tokens.weight.data_ptr():
            x_TD = x_TD.clone()  # it is added to in place
        wanted_S = None if len(wanted) == len(flat.ids) else torch.tensor(wanted, device=device)
        normed, gated, fed_TD = self.pointwise.normed, self.pointwise.gated, None
        for number, (layer, rope) in enumerate(zip(self.layers, spec.ropes, strict=True)):
            met_TD = self._attend(flat, number, layer, normed(x_TD, fed_TD, layer.norm_in), turns[rope], lensing)
            if wanted_S is not None and number == spec.num_layers - 1:
                if not wanted:
                    break  # a prompt's middle: its keys and values are all that was to be computed
                met_TD, x_TD = met_TD[wanted_S], x_TD[wanted_S]
                if lensing is not None:
                    lensing.only(wanted_S)
            mixed_TD = self._times(number, 1, met_TD, lensing)
            if layer.norm_mixed is not None:
                mixed_TD = layer.norm_mixed(mixed_TD.to(WIDE))
            wide_TE = self._times(number, 2, normed(x_TD, mixed_TD, layer.norm_fed), lensing)
            fed_TD = self._times(number, 3, gated(wide_TE, layer.activation), lensing)
            if layer.norm_out is not None:
                fed_TD = layer.norm_out(fed_TD.to(WIDE))
        for attention in flat.attentions:
            attention.done()
        return self.pointwise.normed(x_TD, fed_TD, self.norm) if wanted else x_TD[:0].to(self.dtype)

    def _times(self, number: int, product: int, x_TD: Tensor, lensing: Lensing | None) -> Tensor:
        out_TN = self.layers[number].products[product](x_TD)
        if lensing is not None:
            lensing.add(number, product, x_TD, out_TN)
        return out_TN

    def _attend(
        self, flat: Flat, number: int, layer: Layer, x_TD: Tensor, turn_TF: Tensor, lensing: Lensing | None
    ) -> Tensor:
        """What attention says, before the output projection, in the weights' dtype."""
        qkv_TN = self._times(number, 0, x_TD, lensing)
        out_TD = x_TD.new_empty(len(x_TD), self.spec.num_heads * self.spec.head_size)
        looped = [part for part in flat.attentions if isinstance(part, LoopedAttention)]
        if looped:  # first: turning in torch changes fp32 in place
            views = numbers(qkv_TN), torch.view_as_real(turn_TF).numpy(), numbers(out_TD)
            for part in looped:
                part.meet(number, layer, *views)
        if len(looped) < len(flat.attentions):
            self._attend_all(flat, number, layer, qkv_TN, turn_TF, out_TD)
        return out_TD

    def _attend_all(
        self, flat: Flat, number: int, layer: Layer, qkv_TN: Tensor, turn_TF: Tensor, out_TD: Tensor
    ) -> None:
        """In torch, for the parts that are for torch."""
        num_q, num_kv = self.spec.num_heads, self.spec.num_kv_heads
        qkv_THD = qkv_TN.to(WIDE).view(len(qkv_TN), num_q + 2 * num_kv, self.spec.head_size)
        v_TKD = qkv_THD[:, num_q + num_kv :]
        turned_THD = qkv_THD[:, : num_q + num_kv]
        if layer.norm_q is not None and layer.norm_k is not None:
            turned_THD = torch.cat((layer.norm_q(turned_THD[:, :num_q]), layer.norm_k(turned_THD[:, num_q:])), dim=1)
        torch.view_as_complex(turned_THD.view(*turned_THD.shape[:-1], -1, 2)).mul_(turn_TF[:, None])
        q_THD, k_TKD = turned_THD[:, :num_q], turned_THD[:, num_q:]
        for part in flat.attentions:
            if not isinstance(part, LoopedAttention):
                own = slice(part.begin, part.end)
                part.append(number, k_TKD[own], v_TKD[own])
                out_TD[own] = part.at(number, q_THD[own])

    def _turns(self, positions_T: Tensor, reaches: list[int]) -> dict[RopeSpec, Tensor]:
        """turn_TF, complex, for each kind of layer; numbers that do not turn are multiplied by one."""
        found = {}
        for rope in dict.fromkeys(self.spec.ropes):
            reach_T = torch.tensor(reaches, device=positions_T.device) if rope.long_factors else None
            turn, half = rotation(rope, positions_T, WIDE, reach_T), rope.rotary_size // 2
            turn_TF = torch.complex(turn.cos[:, :half].contiguous(), turn.sin[:, :half].contiguous())
            found[rope] = F.pad(turn_TF, (0, self.spec.head_size // 2 - half), value=1.0)
        return found


class Flat:
    """One step's tokens end to end: ids, positions, lens of each, how they meet keys, and whose next token is due."""

    def __init__(self, spec: Spec, *, loops: bool) -> None:
        self.spec, self.loops = spec, loops
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.reaches: list[int] = []
        self.lenses: list[Lens | None] = []
        self.due: list[tuple[int, Row | None]] = []
        self.means: list[tuple[Row, int, int]] = []
        """Rows that want the mean of their hidden states, and where their tokens lie: [start, end)."""
        self.attentions: list[DecodeAttention | PrefillAttention | LoopedAttention] = []

    def look(self, table: Table) -> None:
        begin = len(self.ids)
        self.due += enumerate(table.rows, start=begin)
        self.ids += [row.ids[-1] for row in table.rows]
        self.positions += table.lengths
        self.reaches += [length + 1 for length in table.lengths]
        self.lenses += [row.lens for row in table.rows]
        if self.loops and LoopedAttention.suits(self.spec, table.lengths):
            rows = range(len(table.rows))
            self.attentions.append(LoopedAttention(self.spec, table, begin, rows, table.lengths, None))
        else:
            self.attentions.append(DecodeAttention(self.spec, table, begin))

    def fill(self, table: Table, first: int, spans: Sequence[Span], prefix: Prefix | None) -> None:
        begin = len(self.ids)
        rows: list[int] = []
        for place, span in enumerate(spans, start=first):
            if span.row.is_mean:
                self.means.append((span.row, len(self.ids), len(self.ids) + span.size))
            self.ids += span.row.prompt[span.start : span.end]
            self.positions += range(span.start, span.end)
            self.reaches += [len(span.row.prompt)] * span.size
            self.lenses += [span.row.lens] * span.size
            rows += [place] * span.size
            if span.is_last:
                self.due.append((len(self.ids) - 1, span.row))
        places = self.positions[begin:]
        if self.loops and LoopedAttention.suits(self.spec, places):
            self.attentions.append(LoopedAttention(self.spec, table, begin, rows, places, prefix))
        else:
            counts = [span.size for span in spans]
            self.attentions.append(PrefillAttention(self.spec, table, first, counts, spans[0].start, begin, prefix))

    @property
    def wanted(self) -> list[int]:
        """The places whose hidden states are: the last of each row, and all of those that want a mean."""
        due = [place for place, row in self.due if row is not None]
        if not self.means:
            return due
        return sorted({*due, *(place for _, start, end in self.means for place in range(start, end))})

    def handed_out(self, hidden_SD: Tensor) -> Tensor:
        """hidden_RD of the rows that are due, from that of the wanted places; to means their share is added."""
        if not self.means:
            return hidden_SD
        at = {place: number for number, place in enumerate(self.wanted)}
        for row, start, end in self.means:
            part_D = hidden_SD[at[start] : at[end - 1] + 1].sum(0, dtype=WIDE)
            row.sum_D = part_D if row.sum_D is None else row.sum_D + part_D
        return hidden_SD[[at[place] for place, row in self.due if row is not None]]


def _give_up_weights(block: nn.Module) -> None:
    for layer in block.modules():
        if isinstance(layer, QuantizedLinear):
            layer.drop_dequantized()
            del layer.packed
        elif isinstance(layer, nn.Linear) and layer.weight is not None:
            layer.weight.data = layer.weight.data.new_empty(0)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that two prompts begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
