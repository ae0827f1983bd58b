"""Labels for an encoder: a text between the marks that it reads texts in, and, last, the number of its class.

The number is no token: it stands where a causal model has the token to predict, so that datasets, batches and scores
are the same for both. Who names it takes it away before the text is read (`training/methods/classify.py`,
`engines/classes.py`). The contract here is to an encoder what a chat template's is to a decoder: marks, classes and
reach, with golden texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from danlu.core.errors import TemplateError
from danlu.data.contract import VERSION, Contract
from danlu.data.encode import Encoder, OverLength
from danlu.data.ledger import Ledger
from danlu.data.marks import NONCHARACTERS
from danlu.data.sample import Label, Message, Sample
from danlu.data.tokenizer import Tokenizer
from danlu.data.tokens import Tokens

_USUAL_FRAMES = (("[CLS]", "[SEP]"), ("<s>", "</s>"))
_GOLDEN = {
    "zh": "房间很干净，前台也热情，下次还会来。",
    "en": "  Not what I'd call good… 🤔\n",
    "control": "[SEP] </s> 这些只是文字",
}
"""Each shows one habit in which tokenizers differ."""


def frame_of(tokenizer: Tokenizer) -> tuple[int, int]:
    """(the id before a text, the id after it), as the tokenizer's files name them, else as BERT and RoBERTa do."""
    named = tokenizer.special_tokens.get("cls_token"), tokenizer.special_tokens.get("sep_token")
    for first, last in (named, *_USUAL_FRAMES):
        if first in tokenizer.marks and last in tokenizer.marks:
            return tokenizer.control_id(first), tokenizer.control_id(last)
    raise TemplateError("encode.no_frame", where=str(tokenizer.folder))


class LabelEncoder(Encoder):
    """`classes` with how many texts of each are trained on; their order is that of their names. `context` counts a text
    with its marks."""

    def __init__(
        self, tokenizer: Tokenizer, classes: Mapping[str, int], context: int, over_length: OverLength = "drop"
    ) -> None:
        super().__init__(tokenizer, None, context, over_length, label_prompt="{text}")
        self.classes = dict(sorted(classes.items()))
        self.names = tuple(self.classes)
        self.reach = context
        self._numbers = {name: number for number, name in enumerate(self.names)}
        self._first, self._last = frame_of(tokenizer)

    def encode(self, sample: Sample, ledger: Ledger) -> list[Tokens]:
        """A Label's text and its class; what is too long loses its beginning where the recipe wants that, else the row
        is refused."""
        assert isinstance(sample, Label), "an encoder learns from labels alone"
        file, line = sample.origin.file, sample.origin.line
        if NONCHARACTERS.search(sample.text):
            ledger.change(file, line, "encode_noncharacter")
        if (number := self._numbers.get(sample.label)) is None:
            self._refuse(sample, ledger, "encode_unknown_class", label=sample.label)
            return []
        ids = self._framed(sample.text)
        if (total := len(ids)) > self.reach:
            if self.over_length != "truncate-prompt":
                self._refuse(sample, ledger, "encode_over_length", tokens=total, context=self.reach)
                return []
            ids = self._cut(ids)
            ledger.counts["cut"] += total - len(ids)
            ledger.change(file, line, "encode_text_cut", tokens=total, kept=len(ids), context=self.reach)
        tokens = Tokens(np.array([*ids, number], np.int32), np.array([0] * len(ids) + [1], np.uint8))
        self._count(tokens, ledger, ends=False)
        return [tokens]

    def encode_prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The last thing the user said, framed, and cut where training cut."""
        text = next((message.content for message in reversed(messages) if message.role == "user"), "")
        ids = self._framed(text)
        return self._cut(ids) if self.over_length == "truncate-prompt" else ids

    def answer_text(self, ids: Sequence[int]) -> str:
        """The name of the class that was told."""
        return self.names[ids[0]] if ids else ""

    def read_back(self, ids: Sequence[int], *, learnt: bool) -> str:
        return self.answer_text(ids) if learnt else super().read_back(ids, learnt=False)

    def _framed(self, text: str) -> list[int]:
        return [self._first, *self.tokenizer.encode_text(text), self._last]

    def _cut(self, ids: list[int]) -> list[int]:
        """The end of what is too long: it loses its beginning, as a decoder's questions do."""
        return ids if len(ids) <= self.reach else [self._first, *ids[len(ids) - self.reach + 1 :]]


def class_contract(tokenizer: Tokenizer, classes: Mapping[str, int], context: int, over_length: OverLength) -> Contract:
    """What must stay equal from training to whoever answers: marks, classes, reach, and golden texts with their ids."""
    encoder = LabelEncoder(tokenizer, classes, context, over_length)
    golden = {name: encoder.encode_prompt((Message("user", text),)) for name, text in _GOLDEN.items()}
    return Contract(
        {
            "version": VERSION,
            "source": "encoder",
            "tokenizer_digest": tokenizer.digest,
            "vocab_size": tokenizer.vocab_size,
            "frame": list(frame_of(tokenizer)),
            "classes": encoder.classes,
            "context": context,
            "over_length": over_length,
            "stop": [],
            "system": None,
            "thinking": "keep",
            "sampling": {},
            "golden": {name: {"text": _GOLDEN[name], "prompt": ids} for name, ids in golden.items()},
        }
    )


def is_of_classes(contract: Contract) -> bool:
    """Whether the contract is an encoder's."""
    return "classes" in contract.value


def golden_texts(contract: Contract) -> list[str]:
    """As many of them as the encoder can read whole."""
    value = contract.value
    return [told["text"] for told in value["golden"].values() if len(told["prompt"]) <= value["context"]]


def contract_again(contract: Contract, tokenizer: Tokenizer) -> Contract:
    """An encoder's contract, made of the tokenizer that is there now."""
    value = contract.value
    return class_contract(tokenizer, value["classes"], value["context"], value["over_length"])


def label_encoder(contract: Contract, tokenizer: Tokenizer) -> LabelEncoder:
    """The encoder that an encoder's contract was made with."""
    value = contract.value
    return LabelEncoder(tokenizer, value["classes"], value["context"], value["over_length"])
