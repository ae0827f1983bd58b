"""Reader `llamacpp`: a GGUF file, or one beside its base, in llama.cpp's server, which Ollama and LM Studio run too.

It is asked as its users ask it, over HTTP. Its answers hold no logits but the log-probabilities of the next token: a
text is asked for again and again, one token longer each time, and its cache makes that cheap.
Prompts are taken in by its products for many rows, the rest by those for one: both kinds are on trial.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.core.errors import ExportError
from danlu.engines.engine import Question
from danlu.exports.oracle import served_turn
from danlu.exports.readers.reader import Place, Rounding

NUM_PLACES = 16
"""Rows told of each text, its last ones."""
MAX_TOLD = 1024
"""Log-probabilities of one place; a larger vocabulary is told in part."""
ANSWER_S = 120.0


class LlamaCpp:
    """The server and what it says."""

    name = "llamacpp"
    is_partial = True

    def __init__(self, model: Path, adapter: Path | None = None, *, context: int = 2048, threads: int = 1) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the child
        command = [sys.executable, "-m", "danlu.exports.readers.llamacpp_child", str(model), str(context), str(threads)]
        self._child = subprocess.Popen(  # noqa: S603 - our own module and files that were just written
            [*command, *([str(adapter)] if adapter else [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._said, text=True,
        )  # fmt: skip
        assert self._child.stdout is not None, "its output is a pipe"
        self._address = self._child.stdout.readline().strip()
        if not self._address:
            self._child.wait()
            raise self._refusal(str(adapter or model))
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        self._vocab_size = int(self._ask("/v1/models", None)["data"][0]["meta"]["n_vocab"])

    def prompt_ids(self, question: Question, *, enable_thinking: bool = True) -> list[int]:
        asked: dict[str, Any] = {"messages": [served_turn(message) for message in question.messages]}
        if question.tools:
            asked["tools"] = list(question.tools)
        if not enable_thinking:
            asked["chat_template_kwargs"] = {"enable_thinking": False}
        text = self._ask("/apply-template", asked)["prompt"]
        told = self._ask("/tokenize", {"content": text, "parse_special": True, "add_special": True})
        return [int(token) for token in told["tokens"]]

    def continue_ids(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        return [[int(token) for token in self._complete(prompt, max_new_tokens)["tokens"]] for prompt in prompts]

    def logits(self, sequences: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Natural log-probabilities, NaN where they are not told; the last rows only."""
        num_told = min(self._vocab_size, MAX_TOLD)
        for ids in sequences:
            rows = torch.full((min(NUM_PLACES, len(ids)), self._vocab_size), torch.nan)
            for row, end in enumerate(range(len(ids) - len(rows) + 1, len(ids) + 1)):
                told = self._told(ids[:end], num_told)
                places = torch.tensor([entry["id"] for entry in told])
                rows[row, places] = torch.tensor([_number(entry["logprob"]) for entry in told])
            yield rows

    def close(self) -> None:
        if self._child.poll() is None:
            assert self._child.stdin is not None, "its input is a pipe"
            self._child.stdin.close()
            try:
                self._child.wait(10)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._said.close()

    def _told(self, prompt: Sequence[int], num_told: int) -> list[dict[str, Any]]:
        """What comes next, from the bare logits. It is not told where the token that is drawn ends within a character,
        so one that does not is made to be drawn."""
        (whole,) = self._ask("/tokenize", {"content": "a", "parse_special": False, "add_special": False})["tokens"][-1:]
        reply = self._complete(prompt, 1, n_probs=num_told, logit_bias=[[whole, 1e4]])
        if not (places := reply.get("completion_probabilities")):
            raise ExportError("export.reader_failed", where="/completion", reader=self.name, said=str(reply)[:300])
        told: list[dict[str, Any]] = places[0]["top_logprobs"]
        return told

    def _complete(self, prompt: Sequence[int], num_new: int, **further: Any) -> dict[str, Any]:
        asked = {"prompt": list(prompt), "n_predict": num_new, "temperature": 0.0, "return_tokens": True}
        return self._ask("/completion", asked | {"cache_prompt": True} | further)

    def _ask(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, content, {"Content-Type": "application/json"})  # noqa: S310 - loopback
        try:
            with self._open(request, timeout=ANSWER_S) as reply:
                answer: dict[str, Any] = json.loads(reply.read())
        except urllib.error.HTTPError as error:
            said = error.read()[:300].decode(errors="replace")
            raise ExportError("export.reader_failed", where=path, reader=self.name, said=said) from error
        except (OSError, ValueError) as error:  # it died, hung, or told what is no JSON (a NaN)
            raise ExportError("export.reader_failed", where=path, reader=self.name, said=str(error)) from error
        return answer

    def _refusal(self, where: str) -> ExportError:
        self._said.seek(0)
        lines = [line for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        self._said.close()
        return ExportError("export.reader_failed", where=where, reader=self.name, said=" / ".join(lines[-3:])[:400])


def _number(value: float | None) -> float:
    """A probability of nothing is told as null, or as the least double."""
    return -math.inf if value is None or value < -1e30 else float(value)


class LlamaCppReader:
    name = "llamacpp"
    packages = ("xllamacpp",)
    halves_gelu = True

    def open(self, place: Place) -> LlamaCpp:
        files = sorted(place.folder.glob("*.gguf"))
        assert len(files) == 1, "one GGUF file in the folder"
        if place.beside is None:
            return LlamaCpp(files[0], context=place.context, threads=place.threads)
        return LlamaCpp(place.beside, files[0], context=place.context, threads=place.threads)

    def arithmetic(self, files: Rounding) -> Rounding:
        """ggml's products round their inputs to what the weights lie in."""
        return files
