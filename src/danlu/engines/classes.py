"""The engine of a base that names classes: a question is a text, the answer the name of its class, in one step.

It stands where the engine for decoders stands, with the class's number as the one token of each answer, so evaluation
and exports ask it in the same words. `probabilities` tells what it gave the other classes.

Shapes: T tokens of all texts, N texts, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from danlu.adapters.adapter import Attached
from danlu.core.errors import EngineError
from danlu.core.files import sha256_json
from danlu.data.classes import LabelEncoder
from danlu.data.tokens import Tokens
from danlu.engines.engine import Answer, Question, Sampling, Score
from danlu.engines.native import SCORE_TOKENS, NativeEngine
from danlu.model.classifier import Classifier
from danlu.ops.attention import Bounds


class ClassEngine(NativeEngine):
    """`model` has been told the classes of `encoder`. `adapter` holds what was trained; without one this is the base,
    which answers the most frequent class."""

    model: Classifier
    encoder: LabelEncoder

    def __init__(self, model: Classifier, encoder: LabelEncoder, *, name: str, adapter: Attached | None = None) -> None:
        assert len(model.classes) == len(encoder.names), "model and contract speak of the same classes"
        super().__init__(model, encoder, name=name, adapter=adapter)

    @property
    def digest(self) -> str:
        """Other classes, or other shares of them, are another head."""
        return sha256_json([super().digest, self.encoder.classes])

    def stream(self, question: Question, sampling: Sampling) -> Iterator[str]:
        (answer,) = self.generate([question], sampling)
        if answer.finish == "error":
            raise EngineError("engine.text_too_long", where=self.name, **self._measures(self.prompt_ids(question)))
        yield answer.text

    def probabilities(self, question: Question) -> dict[str, float]:
        """Each class with its probability, the likeliest first."""
        ids = self.prompt_ids(question)
        if len(ids) > self.encoder.reach:
            raise EngineError("engine.text_too_long", where=self.name, **self._measures(ids))
        (logits_1C,) = self.logits([ids])
        shares = dict(zip(self.encoder.names, logits_1C[0].softmax(-1).tolist(), strict=True))
        return dict(sorted(shares.items(), key=lambda pair: -pair[1]))

    def continue_ids(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """The number of each text's class."""
        return [[int(logits_1C[0].argmax())] for logits_1C in self.logits(prompts)]

    def logits(self, sequences: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """logits_1C in fp32 of each text."""
        for start in range(0, len(sequences), self.max_rows):
            yield from torch.split(self._logits(sequences[start : start + self.max_rows]), 1)

    # ---- inside

    def _measures(self, ids: Sequence[int]) -> dict[str, int]:
        return {"num_tokens": len(ids), "context": self.encoder.reach}

    def _continued(
        self, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling]
    ) -> Iterator[tuple[int, Answer]]:
        """Texts of like length together; one too long for the encoder gets an error."""
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
        batch: list[int] = []
        for place, number in enumerate(order):
            if len(prompts[number]) > self.encoder.reach:
                error = EngineError("engine.text_too_long", where=self.name, **self._measures(prompts[number]))
                yield number, Answer("", "error", error=error.text)
                continue
            batch.append(number)
            longest = len(prompts[order[min(place + 1, len(order) - 1)]])
            if (len(batch) + 1) * longest > SCORE_TOKENS or len(batch) == self.max_rows:
                yield from self._told(batch, prompts)
                batch = []
        yield from self._told(batch, prompts)

    def _told(self, batch: Sequence[int], prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, Answer]]:
        if not batch:
            return
        began = time.perf_counter()
        numbers = self._logits([prompts[number] for number in batch]).argmax(-1).tolist()
        seconds = (time.perf_counter() - began) / len(batch)
        for number, found in zip(batch, numbers, strict=True):
            yield number, Answer(self.encoder.names[found], "stop", len(prompts[number]), 1, (found,), seconds)

    @torch.inference_mode()
    def _logits(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """logits_NC."""
        ids_T = torch.tensor([token for ids in texts for token in ids], device=self.model.device)
        hidden_ND = self.model.firsts(ids_T, Bounds.of([len(ids) for ids in texts]))
        logits_NC = self.model.logits(hidden_ND).float()
        if not bool(logits_NC.isfinite().all()):
            raise EngineError("engine.non_finite", where=self.name, step=0, dtype=str(self.model.dtype))
        return logits_NC

    def _score(self, samples: list[Tokens]) -> list[Score]:
        """How likely the right class is; it stands last in each sample."""
        log_probs_NC = self._logits([sample.ids[:-1].tolist() for sample in samples]).double().log_softmax(-1)
        return [Score((float(told[int(sample.ids[-1])]),)) for told, sample in zip(log_probs_NC, samples, strict=True)]
