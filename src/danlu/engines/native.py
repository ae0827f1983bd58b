"""The engine of this process: batched generation with a KV cache, streaming and scoring over a `Model`.

Static batches: questions of like length go together, and rows that are done leave the batch. No paging, no continuous
batching, no speculation; serving many users is another engine's work. `base()` answers with the adapter switched off.

Shapes: B rows, V vocabulary, D hidden, T tokens laid end to end, N supervised ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from danlu.adapters.adapter import Attached
from danlu.core.errors import EngineError
from danlu.core.files import sha256_json
from danlu.data.encode import Encoder
from danlu.data.tokens import Tokens
from danlu.engines.engine import Answer, Question, Sampling, Score
from danlu.engines.sampling import check_sampling, choose, draws
from danlu.engines.telling import Teller
from danlu.model.model import Model
from danlu.ops.attention import Bounds

MAX_ROWS = 256
BATCH_TOKENS = 32_768
"""Bound of rows times (longest prompt + answer), which is what the cache holds."""
SCORE_TOKENS = 8_192


@dataclass(slots=True)
class _Row:
    """One question being answered."""

    number: int
    prompt: list[int]
    num_free: int
    """Tokens that the context, and the sampling, still allow."""
    draws: npt.NDArray[np.float64] | None = None
    teller: Teller | None = None
    ids: list[int] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None


class NativeEngine:
    """`encoder` makes prompts and reads answers; `adapter` is what is attached to `model`, if anything."""

    def __init__(self, model: Model, encoder: Encoder, *, name: str, adapter: Attached | None = None) -> None:
        self.model, self.encoder, self.name, self.adapter = model, encoder, name, adapter
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
        engine = NativeEngine(self.model, self.encoder, name=name, adapter=self.adapter)
        engine._is_base = True
        return engine

    def generate(
        self, questions: Sequence[Question], sampling: Sampling, *, watch: Callable[[int], None] | None = None
    ) -> list[Answer]:
        """One answer per question, in order. A prompt that leaves no room in the context gets `finish="error"`.
        `seconds` is a row's share of its batch's time."""
        check_sampling(sampling)
        answers: dict[int, Answer] = {}
        rows = []
        for number, question in enumerate(questions):
            row = self._row(number, self.prompt_ids(question), sampling, needs_text=bool(sampling.stop))
            if isinstance(row, EngineError):
                answers[number] = Answer("", "error", error=row.text)
            else:
                rows.append(row)
        if watch is not None and answers:
            watch(len(answers))
        for batch in batches(rows, max_rows=MAX_ROWS, max_tokens=BATCH_TOKENS):
            began, num_told = time.perf_counter(), 0
            for _ in self._decode(batch, sampling):
                num_done = sum(row.finish is not None for row in batch)
                if watch is not None and num_done > num_told:
                    watch(num_done - num_told)
                num_told = num_done
            share_s = (time.perf_counter() - began) / len(batch)
            answers |= {row.number: self._answer(row, share_s) for row in batch}
        return [answers[number] for number in range(len(questions))]

    def stream(self, question: Question, sampling: Sampling) -> Iterator[str]:
        """Pieces of text as they become certain; no piece breaks a character."""
        check_sampling(sampling)
        row = self._row(0, self.prompt_ids(question), sampling, needs_text=True)
        if isinstance(row, EngineError):
            raise row
        assert row.teller is not None, "a streamed row has a teller"
        for _ in self._decode([row], sampling):
            if piece := row.teller.tell():
                yield piece
        if piece := row.teller.tell(is_last=True):
            yield piece

    def score(self, samples: Sequence[Tokens]) -> list[Score]:
        """Packed into flat batches; logits exist for supervised tokens only, a chunk at a time."""
        scores: list[Score] = [Score()] * len(samples)
        order = [number for number, sample in enumerate(samples) if len(sample) > 0]
        for batch in _packed(order, samples):
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
        for batch in batches(rows, max_rows=MAX_ROWS, max_tokens=BATCH_TOKENS):
            for _ in self._decode(batch, sampling):
                pass
        return [row.ids for row in rows]

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

    def _weights(self) -> AbstractContextManager[None]:
        if self._is_base:
            assert self.adapter is not None, "a base engine stands beside an adapter"
            return self.adapter.disabled()
        return contextlib.nullcontext()

    def _row(self, number: int, prompt: list[int], sampling: Sampling, *, needs_text: bool) -> _Row | EngineError:
        context = self.model.spec.context
        if not prompt:
            return EngineError("engine.empty_prompt", where=self.name)
        if len(prompt) >= context:
            return EngineError("engine.prompt_too_long", where=self.name, num_tokens=len(prompt),
                               max_new_tokens=sampling.max_new_tokens, context=context)  # fmt: skip
        row = _Row(number, prompt, min(sampling.max_new_tokens, context - len(prompt)))
        if sampling.temperature > 0:
            row.draws = draws(sampling, prompt, row.num_free)
        if needs_text:
            row.teller = Teller(self.encoder.answer_text, sampling.stop)
        return row

    def _decode(self, batch: list[_Row], sampling: Sampling) -> Iterator[None]:
        """Answer a batch, pausing after each token. The adapter is switched per model call, never across a pause: a
        paused stream must not change what another engine on the same weights says."""
        model, rows = self.model, list(batch)
        longest = max(len(row.prompt) + row.num_free for row in rows)
        cache = model.new_cache(len(rows), longest)
        with torch.inference_mode(), self._weights():
            hidden_BD = model.prefill([torch.tensor(row.prompt) for row in rows], cache)
        step = 0
        while True:
            with torch.inference_mode():
                logits_BV = model.logits(hidden_BD).float()
                ids_B, peak_B = choose(logits_BV, sampling, _draws_at(rows, step, logits_BV.device))
                if not bool(peak_B.isfinite().all()):
                    raise EngineError("engine.non_finite", where=self.name, step=step, dtype=str(model.dtype))
            for row, token in zip(rows, ids_B.tolist(), strict=True):
                self._take(row, token)
            yield
            living = [place for place, row in enumerate(rows) if row.finish is None]
            if not living:
                return
            step += 1
            with torch.inference_mode(), self._weights():
                if len(living) <= 0.75 * len(rows):  # copying the cache costs more than a few idle rows
                    kept = torch.tensor(living, device=ids_B.device)
                    cache.keep(kept)
                    rows, ids_B = [rows[place] for place in living], ids_B[kept]
                hidden_BD = model.step(ids_B, cache)

    def _take(self, row: _Row, token: int) -> None:
        """Add a token to an answer; rows that are done and not yet dropped ignore theirs."""
        if row.finish is not None:
            return
        row.ids.append(token)
        is_end = token in self.encoder.stop_ids
        if row.teller is not None and row.teller.hear(row.ids):
            is_end = True
        if is_end:
            row.finish = "stop"
        elif len(row.ids) >= row.num_free:
            row.finish = "length"

    def _answer(self, row: _Row, seconds: float) -> Answer:
        assert row.finish is not None, "a batch ends when all its rows do"
        text = row.teller.text if row.teller is not None else self.encoder.answer_text(row.ids)
        return Answer(text, row.finish, len(row.prompt), len(row.ids), tuple(row.ids), seconds)

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


def batches(rows: Sequence[_Row], *, max_rows: int, max_tokens: int) -> Iterator[list[_Row]]:
    """Rows of like length together, longest first, so that what does not fit into memory fails at once."""
    order = sorted(rows, key=lambda row: len(row.prompt) + row.num_free, reverse=True)
    while order:
        longest = len(order[0].prompt) + order[0].num_free
        size = max(1, min(max_rows, max_tokens // longest))
        yield order[:size]
        order = order[size:]


def _packed(order: list[int], samples: Sequence[Tokens]) -> Iterator[list[int]]:
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


def _draws_at(rows: list[_Row], step: int, device: torch.device) -> Tensor | None:
    if rows[0].draws is None:
        return None
    numbers = [float(row.draws[step]) if row.draws is not None and step < len(row.draws) else 0.0 for row in rows]
    return torch.tensor(numbers, dtype=torch.float64, device=device)


def _digest_of(adapter: Attached) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(adapter.parameters().items()):
        digest.update(f"{name} {tuple(weight.shape)} ".encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
