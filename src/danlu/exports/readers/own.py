"""Reader `danlu`: our own loader on what we wrote, computing in what it is told to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from danlu.adapters.load import load_trained
from danlu.adapters.peft_format import CONFIG
from danlu.data.encode import Encoder
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.engines.engine import Question
from danlu.engines.native import NativeEngine
from danlu.exports.readers.reader import Place, Rounding
from danlu.model.build import load_model


class OwnReading:
    """A NativeEngine on the folder's weights, with the folder's words."""

    name = "danlu"
    is_partial = False

    def __init__(self, place: Place) -> None:
        has_adapter = (place.folder / CONFIG).is_file()
        assert place.beside is not None or not has_adapter, "an adapter needs its base"
        base = place.beside if has_adapter and place.beside is not None else place.folder
        model = load_model(base, dtype=place.dtype, device=place.device)
        adapter = load_trained(place.folder, model) if has_adapter else None
        tokenizer = Tokenizer.load(place.folder)
        self._encoders = {
            wants: Encoder(tokenizer, Template.load(place.folder, tokenizer, thinking="keep" if wants else "drop"))
            for wants in (True, False)
        }
        self._engine = NativeEngine(model, self._encoders[True], name=self.name, adapter=adapter)

    def prompt_ids(self, question: Question, *, enable_thinking: bool = True) -> list[int]:
        return self._encoders[enable_thinking].encode_prompt(question.messages, question.tools)

    def continue_ids(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        return self._engine.continue_ids(prompts, max_new_tokens)

    def logits(self, sequences: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        return self._engine.logits(sequences)

    def close(self) -> None:
        del self._engine


class OwnReader:
    name = "danlu"
    packages: tuple[str, ...] = ()
    halves_gelu = False

    def open(self, place: Place) -> OwnReading:
        return OwnReading(place)

    def arithmetic(self, files: Rounding) -> Rounding:
        return "f32"
