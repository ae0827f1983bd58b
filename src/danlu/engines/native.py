"""The engine of this process: batched generation with a KV cache, streaming and scoring over a `Model`.

A row that is done gives its seat to the next question (`decoding.py`); on a CPU weights are packed for the time of the
answers (`packed.py`), on a card steps are recorded (`cuda_rows.py`). No speculation; serving many users at once is
`live.py`. `base()` answers with the adapter switched off.

Shapes: B rows, V vocabulary, D hidden, T tokens laid end to end, N supervised ones.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from danlu.adapters.adapter import Attached
from danlu.core.errors import EngineError
from danlu.core.files import sha256_json
from danlu.data.encode import Encoder
from danlu.data.tokens import Tokens
from danlu.engines.cuda_rows import OnCard, card_for, fits_card
from danlu.engines.decoding import Decoding
from danlu.engines.detokenizer import Detokenizer
from danlu.engines.engine import Answer, Question, Sampling, Score, in_order
from danlu.engines.packed import Packed, packed
from danlu.engines.parallel import side_by_side
from danlu.engines.plain import Plain
from danlu.engines.rows import Forward, Row
from danlu.engines.sampling import check_sampling, draws
from danlu.model.model import Model
from danlu.ops.attention import Bounds

MAX_ROWS, CPU_ROWS = 256, 128
"""Rows that are answered at once: on a GPU, and on a CPU, where more of them only crowd its caches."""
FEWEST_TO_PACK = 8
"""Packing copies the weights once; fewer questions are done before that pays."""
FEWEST_TO_LOOP = 64
"""Compiled loops take 0.7 s to load, and once on a machine 8 s to make; a question to a small model gains 5 ms by them,
to a larger one more."""
BATCH_TOKENS = 32_768
"""Bound of rows times (longest prompt + answer), which is what the cache holds."""
SCORE_TOKENS = 8_192
ROWS_PER_HAND = 32
"""Rows that a thread of its own must have: matrix products of fewer rows are slower for each."""
REFILL_SHARE, CARD_REFILL_SHARE = 0.25, 0.0625
"""So many of the seats are free before prompts are computed for them, on a CPU and on a card: a prompt alone costs
nearly what many do."""


class NativeEngine:
    """`encoder` makes prompts and reads answers; `adapter` is what is attached to `model`, if anything."""

    def __init__(
        self, model: Model, encoder: Encoder, *, name: str, adapter: Attached | None = None, max_rows: int | None = None
    ) -> None:
        self.model, self.encoder, self.name, self.adapter = model, encoder, name, adapter
        self.max_rows = max_rows or (CPU_ROWS if model.device.type == "cpu" else MAX_ROWS)
        self._is_base = False
        self._digest = ""
        model.eval()

    @property
    def digest(self) -> str:
        """Of the loaded weights and of what was trained on them; computed when first asked."""
        if not self._digest:
            trained = self.adapter is not None and not self._is_base
            parts = {
                "model": self.model.digest,
                "trained": _digest_of(self.adapter) if trained and self.adapter else "",
            }
            self._digest = sha256_json(parts) if trained else self.model.digest
        return self._digest

    def base(self, name: str = "base") -> NativeEngine:
        """The same weights in memory, answering with the adapter off."""
        if self.adapter is None or not self.adapter.can_disable:
            raise EngineError("engine.no_adapter", where=self.name)
        engine = NativeEngine(self.model, self.encoder, name=name, adapter=self.adapter, max_rows=self.max_rows)
        engine._is_base = True
        return engine

    def generate(
        self, questions: Sequence[Question], sampling: Sampling, *, watch: Callable[[int], None] | None = None
    ) -> list[Answer]:
        """One answer per question, in order. A prompt that leaves no room in the context gets `finish="error"`."""
        return in_order(self.answers(questions, sampling), watch)

    def answers(self, questions: Sequence[Question], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """(number, answer) as each is finished; `seconds` is the answer's share of the time."""
        prompts = [self.prompt_ids(question) for question in questions]
        yield from self._continued(prompts, [sampling] * len(prompts))

    def stream(self, question: Question, sampling: Sampling) -> Iterator[str]:
        """Pieces of text as they become certain; no piece breaks a character."""
        check_sampling(sampling)
        row = self._row(0, self.prompt_ids(question), sampling, needs_text=True)
        if isinstance(row, EngineError):
            raise row
        assert row.detokenizer is not None, "a streamed row has a detokenizer"
        for _ in self._decoded([row], self._forward([row])):
            if piece := row.detokenizer.new_text():
                yield piece
        if piece := row.detokenizer.new_text(is_last=True):
            yield piece

    def score(self, samples: Sequence[Tokens]) -> list[Score]:
        """Packed into flat batches; logits exist for supervised tokens only, a chunk at a time."""
        scores: list[Score] = [Score()] * len(samples)
        order = [number for number, sample in enumerate(samples) if len(sample) > 0]
        for batch in _by_length(order, samples):
            for number, score in zip(batch, self._score([samples[number] for number in batch]), strict=True):
                scores[number] = score
        return scores

    # ---- what exports and chat ask beyond the contract

    def prompt_ids(self, question: Question) -> list[int]:
        """The rendered prompt, generation prompt included, as token ids."""
        return list(self.encoder.encode_prompt(question.messages, question.tools))

    def continue_ids(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """Greedy continuations of ready token ids, stop token included."""
        sampling = Sampling(max_new_tokens=max_new_tokens)
        rows = []
        for number, prompt in enumerate(prompts):
            row = self._row(number, list(prompt), sampling, needs_text=False)
            if isinstance(row, EngineError):
                raise row
            rows.append(row)
        for _ in self._decoded(rows, None):
            pass
        return [row.ids for row in rows]

    def continue_texts(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Answer]:
        """Answers to ready token ids, which no template has seen."""
        return self.continue_each(prompts, [sampling] * len(prompts))

    def continue_each(self, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling]) -> list[Answer]:
        """The same, each prompt with a sampling of its own: one prompt several times, with other seeds."""
        found = dict(self._continued(prompts, samplings))
        return [found[number] for number in range(len(prompts))]

    def logits(self, sequences: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """logits_TV in fp32 of each sequence; one flat batch through the model, one at a time through the head."""
        bounds = Bounds.of([len(ids) for ids in sequences])
        ids_T = torch.tensor([token for ids in sequences for token in ids], device=self.model.device)
        with torch.inference_mode(), self._weights():
            hidden_TD = self.model.hidden(ids_T, bounds.positions(self.model.device), bounds)
        for start, end in zip(bounds.cu_seqlens, bounds.cu_seqlens[1:], strict=False):
            with torch.inference_mode():
                logits_TV = self.model.logits(hidden_TD[start:end]).float()
            yield logits_TV

    # ---- inside

    def _continued(
        self, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling]
    ) -> Iterator[tuple[int, Answer]]:
        rows = []
        for number, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
            check_sampling(sampling)
            row = self._row(number, list(prompt), sampling, needs_text=bool(sampling.stop))
            if isinstance(row, EngineError):
                yield number, Answer("", "error", error=row.text)
            else:
                rows.append(row)
        for done in self._decoded(rows, self._forward(rows)):
            for row in done:
                yield row.number, self._answer(row)

    def _weights(self) -> AbstractContextManager[None]:
        if self._is_base:
            assert self.adapter is not None, "a base engine stands beside an adapter"
            return self.adapter.disabled()
        return contextlib.nullcontext()

    def _row(self, number: int, prompt: list[int], sampling: Sampling, *, needs_text: bool) -> Row | EngineError:
        context = self.model.context
        if not prompt:
            return EngineError("engine.empty_prompt", where=self.name)
        if len(prompt) >= context:
            return EngineError("engine.prompt_too_long", where=self.name, num_tokens=len(prompt),
                               max_new_tokens=sampling.max_new_tokens, context=context)  # fmt: skip
        row = Row(number, prompt, min(sampling.max_new_tokens, context - len(prompt)), sampling)
        if sampling.temperature > 0:
            row.draws = draws(sampling, prompt, row.num_free)
        if needs_text:
            row.detokenizer = Detokenizer(self.encoder.tokenizer.decode, sampling.stop, self.encoder.stop_ids)
        return row

    def _forward(self, rows: Sequence[Row]) -> Packed | OnCard | None:
        """A quick way through the weights for these rows, where there is one that pays. None knows prefixes."""
        if self.model.prefix is not None and not self._is_base:
            return None
        if rows and fits_card(self.model):
            return card_for(self.model, rows, max_rows=self.max_rows, with_adapter=not self._is_base)
        if len(rows) < FEWEST_TO_PACK:
            return None
        return packed(self.model, with_adapter=not self._is_base, loops=len(rows) >= FEWEST_TO_LOOP)

    def _decoded(self, rows: Sequence[Row], forward: Packed | OnCard | None) -> Iterator[list[Row]]:
        """The rows that each step has finished, often none. Longest first, so that what does not fit into memory
        fails at once."""
        order = sorted(rows, key=lambda row: row.most_tokens, reverse=True)
        if isinstance(forward, OnCard):
            yield from _sound(self._decoding(forward, order, forward.max_rows, forward.max_tokens).run())
            return
        if forward is not None:
            yield from self._by_hands(forward, order)
            return
        for some, num_seats in _runs(order, max_rows=self.max_rows, max_tokens=BATCH_TOKENS):
            plain = Plain(self.model, num_seats, some[0].most_tokens, self._weights)
            yield from _sound(self._decoding(plain, some, num_seats).run())

    def _by_hands(self, forward: Packed, order: Sequence[Row]) -> Iterator[list[Row]]:
        """Seats shared out to as many threads as keep enough of them each."""
        num_seats = min(self.max_rows, len(order))
        num = max(1, min(torch.get_num_threads(), num_seats // ROWS_PER_HAND))
        parts = [
            self._decoding(forward.sharing_weights(), order[n::num], self.max_rows // num, BATCH_TOKENS // num)
            for n in range(num)
        ]
        for done in _sound(side_by_side(parts) if num > 1 else parts[0].run()):
            for row in done:
                row.seconds /= num
            yield done

    def _decoding(
        self, forward: Forward, rows: Sequence[Row], num_seats: int, max_tokens: int = BATCH_TOKENS
    ) -> Decoding:
        reads_alone = isinstance(forward, Packed) and forward.loops  # beside those that write, at no cost of its own
        share = CARD_REFILL_SHARE if isinstance(forward, OnCard) else REFILL_SHARE
        decoding = Decoding(
            forward, stop_ids=frozenset(self.encoder.stop_ids), max_rows=num_seats, max_tokens=max_tokens,
            name=self.name, refill=1 if reads_alone else max(1, int(share * num_seats)),
        )  # fmt: skip
        decoding.add(rows)
        return decoding

    def _answer(self, row: Row) -> Answer:
        assert row.finish in ("stop", "length"), "a row leaves when it is done"
        text = row.detokenizer.text if row.detokenizer is not None else self.encoder.answer_text(row.ids)
        return Answer(text, row.finish, len(row.prompt), len(row.ids), tuple(row.ids), row.seconds)

    @torch.inference_mode()
    def _score(self, samples: list[Tokens]) -> list[Score]:
        bounds = Bounds.of([len(sample) for sample in samples])
        device = self.model.device
        ids_T = torch.from_numpy(np.concatenate([sample.ids for sample in samples]).astype(np.int64)).to(device)
        weights_T = np.concatenate([sample.weights for sample in samples]).astype(bool)
        weights_T[list(bounds.cu_seqlens[:-1])] = False  # nothing comes before a document's first token
        targets = torch.from_numpy(np.flatnonzero(weights_T)).to(device)
        with self._weights():
            hidden_TD = self.model.hidden(ids_T, bounds.positions(device), bounds)
        log_probs = self.model.log_probs(hidden_TD[targets - 1], ids_T[targets]).tolist()
        if not all(np.isfinite(log_probs)):
            raise EngineError("engine.non_finite", where=self.name, step=0, dtype=str(self.model.dtype))
        ends = np.cumsum([sample.num_supervised for sample in samples])[:-1]
        return [Score(tuple(part)) for part in np.split(np.asarray(log_probs, dtype=np.float64), ends)]


def _sound(steps: Generator[list[Row], None, None]) -> Iterator[list[Row]]:
    """The same, until a row's logits are no numbers."""
    with contextlib.closing(steps):  # at once: an error that is kept would keep its threads
        for done in steps:
            for row in done:
                if row.fault is not None:
                    raise row.fault
            yield done


def _runs(order: Sequence[Row], *, max_rows: int, max_tokens: int) -> Iterator[tuple[list[Row], int]]:
    """Rows, longest first, that share seats, and how many seats. Where the longest leave no room for all seats, rows
    of half their length get seats of their own."""
    start = 0
    while start < len(order):
        longest, end = order[start].most_tokens, len(order)
        if max_tokens // longest < max_rows:
            end = next((n for n in range(start, end) if 2 * order[n].most_tokens < longest), end)
        yield list(order[start:end]), max(1, min(max_rows, max_tokens // longest, end - start))
        start = end


def _by_length(order: list[int], samples: Sequence[Tokens]) -> Iterator[list[int]]:
    """Sample numbers, of like length together, up to SCORE_TOKENS a batch; a longer sample goes alone."""
    batch: list[int] = []
    num_tokens = 0
    for number in sorted(order, key=lambda number: len(samples[number])):
        if batch and num_tokens + len(samples[number]) > SCORE_TOKENS:
            yield batch
            batch, num_tokens = [], 0
        batch.append(number)
        num_tokens += len(samples[number])
    if batch:
        yield batch


def _digest_of(adapter: Attached) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(adapter.parameters().items()):
        digest.update(f"{name} {tuple(weight.shape)} ".encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
