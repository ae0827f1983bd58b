"""One stage's desk: what its method accepts is rendered, encoded and written as a dataset; misfits are told.

Samples stream from the parts; nothing here holds more than a batch of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from danlu.core.errors import DataError, TemplateError
from danlu.core.messages import say
from danlu.core.progress import Progress
from danlu.data.card import Card
from danlu.data.classes import label_encoder
from danlu.data.contract import Contract
from danlu.data.dataset import Dataset
from danlu.data.encode import Encoder
from danlu.data.ledger import Ledger
from danlu.data.sample import Conversation, Sample
from danlu.data.samples_file import as_json
from danlu.data.tokens import Item
from danlu.pipeline.base import Base
from danlu.pipeline.fates import Fates
from danlu.pipeline.parts import Parts
from danlu.pipeline.replay import serves
from danlu.pipeline.replayed import Replay
from danlu.recipe.method import SFTSection, StageSection
from danlu.recipe.recipe import Recipe

NUM_PREVIEWS = 3


class Desk:
    """Encodes what one stage's method accepts and writes its dataset."""

    def __init__(self, name: str, recipe: Recipe, stage: StageSection, base: Base, contract: Contract | None) -> None:
        self.name, self.recipe, self.stage, self.base, self.contract = name, recipe, stage, base, contract
        self.fates = Fates()
        self.replayed = Ledger()
        """Of the general rows: their fates are no one's here."""
        self.num_items = 0
        self.num_tried = 0
        self.encoder = self._encoder()

    def _encoder(self) -> Encoder:
        method, base = self.stage.method, self.base
        if method.kind == "classify":
            assert self.contract is not None, "classes are counted before a desk is set up"
            return label_encoder(self.contract, base.tokenizer)
        if base.template is None and method.kind != "pretrain":
            raise TemplateError("pipeline.no_template", where="model.template")
        return Encoder(
            base.tokenizer,
            base.template,
            self.stage.training.context,
            # a document is always cut into passages: none of its tokens is lost, and none is an answer
            "split" if method.kind == "pretrain" else self.recipe.data.over_length,
            method.train_on if isinstance(method, SFTSection) else "last" if self._is_judged else "assistant",
        )

    @property
    def _is_judged(self) -> bool:
        """Answers are not learnt but held against: the model gives its own."""
        return self.stage.method.num_answers > 0

    def write(
        self, folder: Path, parts: Parts, replay: Replay, sources: tuple[dict[str, Any], ...], progress: Progress
    ) -> Dataset:
        """The dataset folder of this stage; what happened to each row stands in `fates`."""
        facts: dict[str, Any] = {
            "split": parts.certificate,
            "over_length": self.recipe.data.over_length,
            "context": self.stage.training.context,
        }
        card = Card(
            name=self.recipe.name,
            vocab_size=self.base.tokenizer.vocab_size,
            contract_digest=self.contract.digest if self.contract else "",
            tokenizer_digest=self.base.tokenizer.digest,
            sources=sources,
            facts=facts,  # completed while the train part is written: what is replayed is known then
        )
        if self._is_judged and self.recipe.data.replay.ratio:
            progress.note(say("pipeline.replay_not_rewarded", stage=self.name))
        progress.start(say("pipeline.encoding", stage=self.name), parts.count("train"))
        train = self._items(self._accepted(parts, "train", progress))
        validation = self._items(self._accepted(parts, "validation", None))
        dataset = Dataset.write(
            folder, {"train": self._with_replay(train, parts, replay, facts), "validation": validation}, card
        )
        progress.finish()
        self.num_items = len(dataset.part("train"))
        return dataset

    def refuse_untouched(self) -> None:
        """DataError when no sample is of a kind that this stage learns from."""
        if not self.num_tried and not self.num_items:
            wanted = ", ".join(sorted(self.stage.method.accepts))
            raise DataError(
                "pipeline.stage_without_data", where="data.sources", stage=self.stage.method.kind, wanted=wanted
            )

    def refuse_empty(self, rejects: Path) -> None:
        """DataError when there were such samples, and every one was refused."""
        if not self.num_items:
            count = self.fates.ledger.num_rejected
            raise DataError("pipeline.stage_all_refused", where="data.sources", stage=self.name, count=count,
                            rejects=str(rejects))  # fmt: skip

    def previews(self, parts: Parts) -> list[dict[str, Any]]:
        """The first samples as the model will see them: text pieces, ids, what is learnt."""
        silent = Ledger()
        found: list[dict[str, Any]] = []
        for sample in parts.samples("train", self.stage.method.accepts):
            encoded = self.encoder.encode(sample, silent)
            if encoded:
                found.append(
                    preview(encoded[0].ids.tolist(), encoded[0].weights.tolist(), self.encoder, str(sample.origin))
                )
            if len(found) == NUM_PREVIEWS:
                break
        return found

    def _accepted(self, parts: Parts, name: str, progress: Progress | None) -> Iterator[Sample]:
        """Samples of the kinds that the method takes; rows that reach the encoder are counted."""
        for sample in parts.samples(name, self.stage.method.accepts):
            self.num_tried += 1
            if progress is not None:
                progress.advance()
            yield sample

    def _items(self, samples: Iterator[Sample]) -> Iterator[Item]:
        """Encoded samples; where answers are judged with all that judges them, and none without a reference."""
        ledger = self.fates.ledger
        if not self._is_judged:
            yield from self.encoder.items(samples, ledger)
            return
        for sample in samples:
            if not has_reference(sample):
                ledger.revoke(sample.origin.file, sample.origin.line, "encode_no_reference")
                continue
            for item in self.encoder.items([sample], ledger):
                yield replace(item, asked=as_json(sample))

    def _with_replay(
        self, items: Iterator[Item], parts: Parts, replay: Replay, facts: dict[str, Any]
    ) -> Iterator[Item]:
        """General items after the domain's own, until they make up `data.replay.ratio` of all train tokens; the card's
        `facts` learn how many, and how private all of it is."""
        num_tokens = num_items = 0
        for item in items:
            num_tokens += sum(len(tokens) for tokens in item.tokens)
            yield item
        ratio = 0.0 if self._is_judged else self.recipe.data.replay.ratio  # general answers earn nothing
        wanted = num_tokens * ratio / (1 - ratio)
        given = 0
        if wanted and serves(self.recipe.data.replay, self.stage.method.accepts):
            seen: dict[tuple[str, str], int] = {}
            taken: list[int] = []
            for item in self.encoder.items(self._general(replay, int(wanted), seen), self.replayed):
                if given >= wanted:
                    break
                given += sum(len(tokens) for tokens in item.tokens)
                num_items += 1
                taken.append(seen[item.origin, item.sample])
                yield item
            replay.take(taken)
        facts["replay"] = {"items": num_items, "tokens": given, "ratio": ratio}
        if level := parts.level():
            facts["level"] = level
        self.fates.ledger.counts["replay_tokens"] += given

    def _general(self, replay: Replay, num_tokens: int, seen: dict[tuple[str, str], int]) -> Iterator[Sample]:
        """Samples of the rows on offer; `seen` learns which row each is, by place and id."""
        for number, row in replay.rows(num_tokens, self.stage.method.accepts):
            assert row.sample is not None, "a row on offer has a sample"
            seen[str(row.origin), row.id] = number
            yield row.sample


def has_reference(sample: Sample) -> bool:
    """Whether its last answer is words that another answer can be held against."""
    if not isinstance(sample, Conversation):
        return True
    answers = [turn.content for turn in sample.messages[1:] if turn.role == "assistant"]
    return bool(answers) and bool(answers[-1].strip())


def preview(ids: list[int], weights: list[int], encoder: Encoder, origin: str) -> dict[str, Any]:
    """Ids, weights and the text in runs of equal weight, control tokens shown."""
    runs: list[dict[str, Any]] = []
    start = 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or weights[end] != weights[start]:
            learnt = bool(weights[start])
            runs.append({"text": encoder.read_back(ids[start:end], learnt=learnt), "learnt": learnt})
            start = end
    return {"origin": origin, "ids": ids, "weights": weights, "runs": runs}
