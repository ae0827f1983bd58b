"""`transformers` (and PEFT) as an independent reader of what we wrote: nothing here uses danlu's model or tokenizer.

Optional: where they are not installed the checks that need them are "not run", and the verdict is not "pass".
Network and remote code stay off: folders only.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from danlu.core.errors import ExportError
from danlu.data.sample import Message
from danlu.engines.engine import Question

REFUSALS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError)
"""What transformers and PEFT raise on folders that they cannot read."""


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


class Transformers:
    """A Hugging Face folder as transformers reads it; with `adapter`, PEFT's reading of that folder on top; with
    `has_codes`, four-bit codes as auto-round multiplies with them."""

    is_partial = False

    def __init__(
        self, folder: Path, *, dtype: torch.dtype, device: torch.device, adapter: Path | None = None,
        has_codes: bool = False,
    ) -> None:  # fmt: skip
        import transformers  # seconds to import, and optional

        self.name = "autoround" if has_codes else "transformers" if adapter is None else "peft"
        # so that its layers are those of auto-round, whichever packages for these formats are here
        further: dict[str, Any] = {"quantization_config": transformers.AutoRoundConfig()} if has_codes else {}
        self._library: Any = transformers
        self._device, self._where = device, str(adapter or folder)
        try:
            with quiet(transformers):
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                    adapter or folder, local_files_only=True, trust_remote_code=False
                )
                model, told = transformers.AutoModelForCausalLM.from_pretrained(
                    folder,
                    dtype=dtype,
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                    **further,
                )
                if adapter is not None:
                    import peft  # optional as well

                    model = peft.PeftModel.from_pretrained(model, adapter)
                    model.generation_config = transformers.GenerationConfig.from_pretrained(
                        adapter, local_files_only=True
                    )
            self._model: Any = model.to(device).eval()
        except REFUSALS as error:
            raise self._refused(error) from error
        # it fills these with random numbers and goes on
        if missing := sorted(told["missing_keys"]):
            raise ExportError("export.reader_failed", where=str(folder), reader=self.name, said=", ".join(missing[:5]))

    def prompt_ids(self, question: Question, *, enable_thinking: bool = True) -> list[int]:
        """What `apply_chat_template` makes of a conversation."""
        switches: dict[str, Any] = {} if enable_thinking else {"enable_thinking": False}
        turns = [turn_of(message) for message in question.messages]
        ids = self._tokenizer.apply_chat_template(
            turns, tools=list(question.tools) or None, add_generation_prompt=True, tokenize=True, return_dict=False,
            **switches,
        )  # fmt: skip
        return [int(token) for token in ids]

    def continue_ids(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        answers = []
        for prompt in prompts:
            ids_BT = torch.tensor([list(prompt)], device=self._device)
            with torch.inference_mode(), quiet(self._library), self._refusing():
                out_BT = self._model.generate(
                    input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=max_new_tokens,
                    do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None,
                )  # fmt: skip
            answers.append(out_BT[0, len(prompt) :].tolist())
        return answers

    def logits(self, sequences: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        for ids in sequences:
            with torch.inference_mode(), self._refusing():
                out = self._model(input_ids=torch.tensor([list(ids)], device=self._device), use_cache=False)
            yield out.logits[0].float()

    def close(self) -> None:
        del self._model

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """It may load what it cannot multiply with: codes of a layer that the header leaves out."""
        try:
            yield
        except torch.OutOfMemoryError:  # says nothing of the files
            raise
        except REFUSALS as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> ExportError:
        said = " ".join(str(error).split())[:400]
        return ExportError("export.reader_failed", where=self._where, reader=self.name, said=said)


class TransformersClasses:
    """An encoder's folder as AutoModelForSequenceClassification and AutoTokenizer read it."""

    name = "transformers"

    def __init__(self, folder: Path, *, dtype: torch.dtype, device: torch.device) -> None:
        import transformers  # seconds to import, and optional

        self._library: Any = transformers
        try:
            with quiet(transformers):
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
                model, told = transformers.AutoModelForSequenceClassification.from_pretrained(
                    folder, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
                )
        except REFUSALS as error:
            said = " ".join(str(error).split())[:400]
            raise ExportError("export.reader_failed", where=str(folder), reader=self.name, said=said) from error
        if missing := sorted(told["missing_keys"]):
            raise ExportError("export.reader_failed", where=str(folder), reader=self.name, said=", ".join(missing[:5]))
        self._model: Any = model.to(device).eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """By number, as its configuration names them."""
        names = self._model.config.id2label
        return tuple(names[number] for number in sorted(names))

    def text_ids(self, question: Question) -> list[int]:
        """What its tokenizer makes of a text."""
        with quiet(self._library):
            ids: list[int] = self._tokenizer(question.messages[-1].content)["input_ids"]
        return ids

    def continue_ids(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        return [[int(logits_1C[0].argmax())] for logits_1C in self.logits(prompts)]

    def logits(self, sequences: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """logits_1C of each text."""
        for ids in sequences:
            with torch.inference_mode():
                yield self._model(input_ids=torch.tensor([list(ids)], device=self._model.device)).logits.float()


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """transformers' advice and progress bars are not for our users."""
    from_before = transformers.utils.logging.get_verbosity()
    had_bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.set_verbosity(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # their deprecations concern their callers, not ours
            yield
    finally:
        transformers.utils.logging.set_verbosity(from_before)
        if had_bars:
            transformers.utils.logging.enable_progress_bar()


def turn_of(message: Message) -> dict[str, Any]:
    """As `Template` hands a turn to Jinja."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [dict(call) for call in message.tool_calls]
    return turn


def served_turn(message: Message) -> dict[str, Any]:
    """As a server is asked: tool calls with their kind, and with their arguments as JSON text."""
    turn = turn_of(message)
    for call in turn.get("tool_calls", []):
        call["function"] = dict(call["function"])
        if not isinstance(call["function"].get("arguments"), str):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return turn
