"""Rows through a decoder on a card: pages of keys and values, recorded steps, and one step ahead.

While tokens hang on logits alone (and on numbers that are drawn beforehand), the card knows the next step's inputs
before the host does: that step is launched before this one's tokens are looked at, so that the host keeps its books
while the card computes. A row that turns out to be done has computed one token that nobody reads. Rows with penalties,
a grammar or log-probabilities are chosen for by the host, and everybody waits for it. Prompts are read beside the
recorded step, in a pass of their own. Answers are those of `plain.py`, the reference, to round-off.

Shapes: T tokens end to end, B seats in use, R rows whose token is due, S prompts at their end, V vocabulary, P pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.engines.cuda_attention import TILE, PagedKV, prefill
from danlu.engines.cuda_choice import draw, is_simple, likeliest, to_card
from danlu.engines.cuda_lenses import CardLensing
from danlu.engines.cuda_pages import PAGE, Pages, num_pages
from danlu.engines.cuda_step import Recorder, Seats, Sums, decode_step, padded
from danlu.engines.lenses import Lens, Stack, Stacks, attached_lens, is_plain_decoder
from danlu.engines.rows import Row, Span
from danlu.model.decoder import Decoder
from danlu.model.model import Model
from danlu.ops.kernels import HAS_TRITON, has_kernels

_UNKNOWN = object()
FREE_SHARE = 0.5
"""Of the card's memory that is free, so much may be taken for keys and values."""


def fits_card(model: Model) -> bool:
    """Whether `OnCard` computes this model here: our own decoder, on a CUDA card that has kernels."""
    if not isinstance(model, Decoder) or model.device.type != "cuda" or not HAS_TRITON:
        return False
    is_known = model.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return is_known and has_kernels(model.device) and is_plain_decoder(model)


def most_places(model: Model) -> int:
    """Tokens whose keys and values the card may be asked to hold now."""
    spec, device = model.spec, model.device
    place_bytes = 2 * spec.num_layers * spec.num_kv_heads * spec.head_size * model.dtype.itemsize
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(FREE_SHARE * (torch.cuda.mem_get_info(device)[0] + held)) // place_bytes


def card_for(model: Model, rows: Sequence[Row], *, max_rows: int, with_adapter: bool) -> OnCard:
    """What computes these rows on the model's card: as many at once as there are seats and memory for."""
    assert isinstance(model, Decoder), "who asks has asked `fits_card`"
    longest = sorted((row.most_tokens for row in rows), reverse=True)[:max_rows]
    max_tokens = min(sum(longest), max(longest[0], most_places(model)))
    with torch.inference_mode():
        return OnCard(
            model, max_rows=len(longest), max_tokens=max_tokens, most_tokens=longest[0], with_adapter=with_adapter
        )


@dataclass(frozen=True, slots=True)
class Crowd:
    """What is the same for all steps of the same rows. `is_simple`: the card chooses their tokens; `draws`: not all the
    likeliest; `stack`: their lenses, `is_uniform`: the same one for all."""

    is_simple: bool
    draws: bool
    stack: Stack | None
    is_uniform: bool


class OnCard:
    """A `rows.Forward` for at most `max_rows` rows, together `max_tokens` tokens, each `most_tokens` at the longest.
    With `with_adapter` every row is answered with the pairs that are attached to the model, as they are now."""

    splits = True

    def __init__(
        self, model: Decoder, *, max_rows: int, max_tokens: int, most_tokens: int, with_adapter: bool = False
    ) -> None:
        self.model, self.device, self.max_rows, self.max_tokens = model, model.device, max_rows, max_tokens
        self.sums = Sums(model)
        # each row leaves a part of its last page empty; a row alone may be longer than all are allowed together
        num = num_pages(max(max_tokens, most_tokens)) + max_rows
        self.pages = Pages(model.spec, num, dtype=model.dtype, device=model.device)
        self.seats = Seats(max_rows, num_pages(most_tokens), model)
        self.own_lens = attached_lens(model) if with_adapter else None
        self.stacks, self.recorder = Stacks(), Recorder(model.device)
        self._host_B = torch.zeros(max_rows, dtype=torch.long, pin_memory=self.device.type == "cuda")
        self._aside = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._is_there = torch.cuda.Event() if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.clear()

    def clear(self) -> None:
        """No row, and nothing known."""
        self._wait()
        self.pages.clear()
        self.rows: list[Row] = []
        """Those that write, each in the seat of its place."""
        self._pages_of: dict[int, list[int]] = {}
        """By the row's identity, from its beginning on."""
        self._launched: list[Row] = []
        """Who had which seat when the step was launched whose tokens are not read yet."""
        self._crowd: Crowd | None = None
        """Of the rows in seats; None: they have changed."""
        self._held: list[object] = [_UNKNOWN] * self.max_rows
        """Whose inputs lie in each seat on the card; None: nobody's."""
        self._held_stack: Stack | None = None
        self._is_told = True
        """Whether the card knows every row's last token."""
        self._picks: dict[int, int] | None = None

    @property
    def num_places(self) -> int:
        """Tokens' places that are allocated."""
        return PAGE * self.pages.num

    # ---- rows come and go

    def begin(self, rows: Sequence[Row]) -> None:
        """Each prompt gets pages to its longest answer's end; what is known of its beginning is not computed again."""
        may_share = not any(rope.long_factors for rope in self.model.spec.ropes)
        if may_share and len(rows) > 1:
            self._read_common(rows)
        for row in rows:
            shares = may_share and not row.is_mean  # of a mean every token's hidden state is wanted
            found = self.pages.found(row.prompt, self._lens(row)) if shares else []
            self._pages_of[id(row)] = found + self.pages.take(num_pages(row.most_tokens) - len(found))
            row.num_done = PAGE * len(found)

    def leave(self, rows: Sequence[Row]) -> None:
        gone = set(map(id, rows))
        for row in rows:
            if (pages := self._pages_of.pop(id(row), None)) is not None:
                self.pages.release(pages)
        places = [place for place, row in enumerate(self.rows) if id(row) in gone]
        for place in reversed(places):  # the last one takes the place
            last = self.rows.pop()
            if place < len(self.rows):
                self.rows[place] = last
        if places:
            self._crowd = None
        if not self.rows:
            self._wait()
            self._launched = []

    def forget(self, lens: Lens) -> None:
        """The lens is gone: nothing of it is kept but what its rows in seats still need."""
        self._wait()
        self.pages.forget(lens)
        self.stacks.forget()
        self.recorder.forget()
        self._crowd = None

    # ---- a step

    def run(self, spans: Sequence[Span]) -> tuple[list[Row], Tensor]:
        """Rows whose next token is due and their logits; where `known` has the tokens the logits are none."""
        writing, is_simple_crowd = list(self.rows), self._now().is_simple
        if writing and not self._launched:
            self._launch({})
        fresh, fresh_SV = self._read(spans) if spans else ([], None)
        rows, launched, self._launched = [*writing, *fresh], self._launched, []
        order = None
        if launched != writing:
            places = {id(row): place for place, row in enumerate(launched)}
            order = [places[id(row)] for row in writing]
        if is_simple_crowd and all(map(is_simple, fresh)):
            picks = self._read_picks() if launched else []
            picks = picks[: len(writing)] if order is None else [picks[place] for place in order]
            if fresh_SV is not None:
                picks_S, ids_S = likeliest(fresh_SV)
                draw(fresh_SV, fresh, 0, picks_S, ids_S)
                picks = picks + picks_S.tolist()
            self._picks = dict(zip(map(id, rows), picks, strict=True))
            if not spans and any(len(row.ids) + 1 < row.num_free for row in rows):
                self._launch(self._picks)
            return rows, self.seats.logits_BV[:1, :1].expand(len(rows), 1)
        self._picks, self._is_told = None, False
        logits_BV = self.seats.logits_BV[: len(writing)]
        if order is not None:
            logits_BV = self.seats.logits_BV[to_card(order, torch.long, self.device)]
        return rows, logits_BV if fresh_SV is None else torch.cat((logits_BV, fresh_SV))

    def known(self, rows: Sequence[Row]) -> list[int] | None:
        return None if self._picks is None else [self._picks[id(row)] for row in rows]

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """What `run` gives are logits already."""
        return hidden_ND

    def _now(self) -> Crowd:
        if self._crowd is None:
            lenses = [self._lens(row) for row in self.rows]
            present = {id(lens): lens for lens in lenses if lens is not None}
            self._crowd = Crowd(
                all(map(is_simple, self.rows)), any(row.sampling.temperature > 0 for row in self.rows),
                self.stacks.stack(present.values()) if present else None, len(present) == 1 and None not in lenses,
            )  # fmt: skip
        return self._crowd

    def _launch(self, picks: dict[int, int]) -> None:
        """The next step of all rows in seats; `picks` are tokens that rows have not taken yet."""
        size, seats, crowd = padded(len(self.rows), self.max_rows), self.seats, self._now()
        stack, is_uniform = crowd.stack, crowd.is_uniform
        self._seat(picks, size, stack)

        def work() -> None:
            lensing = None
            if stack is not None:
                lensing = CardLensing(stack, seats.owners_B[:size], is_uniform=is_uniform, aside=self._aside)
            decode_step(self.sums, seats, self.pages, size, lensing)

        self.recorder.do((size, stack, is_uniform), work)
        self._launched = list(self.rows)
        if crowd.draws:
            draw(seats.logits_BV, self.rows, int(bool(picks)), seats.picks_B, seats.ids_B)
        if self._is_there is not None:
            self._host_B[:size].copy_(seats.picks_B[:size], non_blocking=True)
            self._is_there.record()

    def _seat(self, picks: dict[int, int], size: int, stack: Stack | None) -> None:
        """Inputs into the seats of a step that hold other rows' than they should; nobody's into those that only fill it
        up. What a step itself has made is left there."""
        if not self._is_told:
            ids = [row.ids[-1] for row in self.rows]
            self.seats.ids_B[: len(ids)] = to_card(ids, torch.long, self.device)
            self._is_told = True
        wanted: list[Row | None] = [*self.rows, *[None] * (size - len(self.rows))]
        if stack is self._held_stack:
            changed = [n for n, (row, held) in enumerate(zip(wanted, self._held, strict=False)) if row is not held]
        else:
            changed = list(range(size))
            self._held_stack = stack
        if not changed:
            return
        lines = [self._line(n, wanted[n], picks, stack) for n in changed]
        longest = max(map(len, lines))
        lines_CX = to_card([line + [0] * (longest - len(line)) for line in lines], torch.int32, self.device)
        places_C, seats = lines_CX[:, 0].long(), self.seats
        seats.ids_B[places_C] = lines_CX[:, 1].long()
        seats.positions_B[places_C] = lines_CX[:, 2]
        seats.owners_B[places_C] = lines_CX[:, 3]
        seats.table_BP[places_C, : longest - 4] = lines_CX[:, 4:]
        for n in changed:
            self._held[n] = wanted[n]

    def _line(self, place: int, row: Row | None, picks: dict[int, int], stack: Stack | None) -> list[int]:
        """A seat's number, token, position, lens and pages."""
        if row is None:
            return [place, 0, -1, -1]
        pick = picks.get(id(row))
        token = row.ids[-1] if pick is None else max(pick, 0)
        owner = stack.owners([self._lens(row)])[0] if stack is not None else -1
        position = len(row.prompt) + len(row.ids) - (pick is None)
        return [place, token, position, owner, *self._pages_of[id(row)]]

    def _read_picks(self) -> list[int]:
        if self._is_there is None:
            return self.seats.picks_B.tolist()
        self._is_there.synchronize()
        return self._host_B.tolist()

    def _wait(self) -> None:
        """Nothing of ours is under way on the card."""
        if self._is_there is not None:
            self._is_there.synchronize()

    # ---- prompts

    def _read(self, spans: Sequence[Span]) -> tuple[list[Row], Tensor | None]:
        """The prompts that are complete now, seated, and the logits after them."""
        hidden_TD = self._through(spans, [self._pages_of[id(span.row)] for span in spans])
        ends, done, at = [], [], 0
        for span in spans:
            row, begin = span.row, at
            at += span.size
            row.num_done = span.end
            self.pages.learn(self._pages_of[id(row)], row.prompt[: span.end], self._lens(row))
            if row.is_mean:
                sum_D = hidden_TD[begin:at].sum(0, dtype=torch.float32)
                row.sum_D = sum_D if row.sum_D is None else row.sum_D + sum_D
            if span.is_last:
                ends.append(at - 1)
                done.append(row)
        seated = [row for row in done if not row.is_mean]
        self.rows += seated
        if seated:
            self._crowd = None
        if not ends:
            return [], None
        return done, self.sums.logits(hidden_TD[to_card(ends, torch.long, self.device)])

    def _read_common(self, rows: Sequence[Row]) -> None:
        """Whole pages that several of these prompts begin with, and nobody knows yet, computed once."""
        for lens in dict.fromkeys(self._lens(row) for row in rows):
            prompts = [row.prompt for row in rows if self._lens(row) is lens]
            low, high = min(prompts), max(prompts)
            num_alike = next((n for n, (one, other) in enumerate(zip(low, high, strict=False)) if one != other),
                             min(len(low), len(high)))  # fmt: skip
            num = min(num_alike, min(map(len, prompts)) - 1) // PAGE * PAGE
            if len(prompts) < 2 or num == 0:
                continue
            row = Row(-1, [*low[:num], 0], 0, lens=lens)  # one more token: a prompt keeps one of its own
            found = self.pages.found(row.prompt, lens)
            if len(found) * PAGE < num:
                pages = found + self.pages.take(num // PAGE - len(found))
                self._through([Span(row, len(found) * PAGE, num)], [pages])
                self.pages.learn(pages, low[:num], lens)
                found = pages
            self.pages.release(found)

    def _through(self, spans: Sequence[Span], pages: Sequence[list[int]]) -> Tensor:
        """hidden_TD of these parts of prompts; their keys and values are in their pages then."""
        device, longest = self.device, max(map(len, pages))
        table_BP = to_card([own + [0] * (longest - len(own)) for own in pages], torch.int32, device)
        ids: list[int] = []
        positions: list[int] = []
        numbers: list[int] = []
        lenses: list[Lens | None] = []
        tiles: list[list[int]] = []
        for number, span in enumerate(spans):
            begin = len(ids)
            for start in range(0, span.size, TILE):
                tiles.append([number, begin + start, span.start + start, min(TILE, span.size - start)])
            ids += span.row.prompt[span.start : span.end]
            positions += range(span.start, span.end)
            numbers += [number] * span.size
            lenses += [self._lens(span.row)] * span.size
        reach_T = None
        if any(rope.long_factors for rope in self.model.spec.ropes):
            reaches = [len(span.row.prompt) for span in spans for _ in range(span.size)]
            reach_T = to_card(reaches, torch.int32, device)
        tiles_M4 = to_card(tiles, torch.int32, device)

        def attend(layer: int, q_TX: Tensor, kv: PagedKV) -> Tensor:
            return prefill(q_TX, kv, tiles_M4, self.sums.shapes[layer])

        return self.sums.hidden(
            to_card(ids, torch.long, device), to_card(positions, torch.int32, device), reach_T,
            to_card(numbers, torch.int32, device), table_BP, self.pages, attend, self.stacks.lensing(lenses, device),
        )  # fmt: skip

    def _lens(self, row: Row) -> Lens | None:
        return self.own_lens if row.lens is None else row.lens
