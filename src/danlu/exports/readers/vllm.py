"""Reader `vllm`: a folder with its `vllm.yaml` in vLLM's own server, started as its users start it.

vLLM lives in an environment of its own: it pins the torch that it was built with. It is looked for beside the
interpreter that `exports.N.vllm` names, or on the path. It listens on a unix socket in a private folder and is asked
over HTTP. Its log-probabilities of every place of a text are told at once, the likeliest tokens of each.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from danlu.core.errors import ExportError
from danlu.core.files import read_json
from danlu.engines.engine import Question
from danlu.exports.oracle import served_turn
from danlu.exports.readers.reader import Place, Rounding
from danlu.exports.serving import VLLM as SETTINGS
from danlu.exports.vllm_program import program

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1",
}  # fmt: skip
START_S = 600.0
"""Importing it alone takes a minute on a busy machine."""
ANSWER_S = 300.0
NUM_TOLD = 512
"""Log-probabilities of one place; a larger vocabulary is told in part."""
NUM_PLACES = 32
CODED = ("awq", "gptq")
"""Its products with these codes know half precision only."""


class VLLM:
    """The server and what it says."""

    name = "vllm"
    is_partial = True

    def __init__(self, place: Place, path: str) -> None:
        self._room = tempfile.TemporaryDirectory(prefix="danlu-vllm-")
        self._socket = str(Path(self._room.name) / "socket")
        self._said = (Path(self._room.name) / "said").open("w+b")
        settings = yaml.safe_load((place.folder / SETTINGS).read_text(encoding="utf-8"))
        lora = settings.get("lora-modules")
        self._model = str(lora[0]).partition("=")[0] if lora else str(settings["served-model-name"][0])
        command = ["env", *(f"{name}={value}" for name, value in ENVIRONMENT.items()), path, "serve"]
        command += [str(place.beside.resolve())] if place.beside is not None else []
        command += ["--config", SETTINGS, "--uds", self._socket, "--dtype", dtype_of(place), "--enforce-eager"]
        command += ["--max-num-seqs", "4", "--max-logprobs", str(NUM_TOLD), "--disable-uvicorn-access-log"]
        self._child = subprocess.Popen(  # noqa: S603 - a program that the user has named or installed
            command, cwd=place.folder, stdin=subprocess.DEVNULL, stdout=self._said, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            self._wait(place.folder)
            on_failure.pop_all()
        self._vocab_size = int(read_json((place.beside or place.folder) / "config.json")["vocab_size"])

    def prompt_ids(self, question: Question, *, enable_thinking: bool = True) -> list[int]:
        asked: dict[str, Any] = {"messages": [served_turn(message) for message in question.messages]}
        if question.tools:
            asked["tools"] = list(question.tools)
        if not enable_thinking:
            asked["chat_template_kwargs"] = {"enable_thinking": False}
        return [int(token) for token in self._ask("/tokenize", asked | {"add_generation_prompt": True})["tokens"]]

    def continue_ids(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        return [[int(token) for token in self._complete(prompt, max_new_tokens)["token_ids"]] for prompt in prompts]

    def logits(self, sequences: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Natural log-probabilities, NaN where they are not told; the last rows only."""
        num_told = min(self._vocab_size, NUM_TOLD)
        for ids in sequences:
            # of a prompt's tokens each is told with what else could have stood there: one more makes the last row
            told = self._complete([*ids, ids[-1]], 1, prompt_logprobs=num_told)["prompt_logprobs"][1:]
            rows = torch.full((min(NUM_PLACES, len(ids)), self._vocab_size), torch.nan)
            for row, place in enumerate(told[-len(rows) :]):
                rows[row, [int(token) for token in place]] = torch.tensor([each["logprob"] for each in place.values()])
            yield rows

    def close(self) -> None:
        """Its engine is a process of its own: the whole group ends."""
        for wish, patience_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 20.0)):
            if self._child.poll() is None:
                os.killpg(self._child.pid, wish)
                try:
                    self._child.wait(patience_s)
                except subprocess.TimeoutExpired:
                    continue
        self._said.close()
        self._room.cleanup()

    def _complete(self, prompt: Sequence[int], num_new: int, **further: Any) -> dict[str, Any]:
        asked = {"prompt": list(prompt), "max_tokens": num_new, "temperature": 0.0, "return_token_ids": True,
                 "repetition_penalty": 1.0}  # fmt: skip
        choice: dict[str, Any] = self._ask("/v1/completions", asked | further)["choices"][0]
        return choice

    def _wait(self, folder: Path) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self._child.poll() is not None:
                break
            try:
                if self._send("GET", "/health", None)[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.5)
        raise ExportError("export.reader_failed", where=str(folder), reader=self.name, said=self._last_words())

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            status, said = self._send("POST", path, body | {"model": self._model})
        except OSError as error:
            said_before = f"{error}; {self._last_words()}"
            raise ExportError("export.reader_failed", where=path, reader=self.name, said=said_before) from error
        if status != 200:
            text = said[:300].decode(errors="replace")
            raise ExportError("export.reader_failed", where=path, reader=self.name, said=text)
        try:
            answer: dict[str, Any] = json.loads(said)
        except ValueError as error:  # a NaN is no JSON
            raise ExportError("export.reader_failed", where=path, reader=self.name, said=str(error)) from error
        return answer

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        connection = _Connection(self._socket)
        try:
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, path, content, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.read()
        except http.client.HTTPException as error:
            raise OSError(str(error) or type(error).__name__) from error
        finally:
            connection.close()

    def _last_words(self) -> str:
        self._said.flush()
        self._said.seek(0)
        lines = [line for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        faults = [line for line in lines if "Error" in line]
        return " / ".join((faults or lines)[-3:])[-400:]


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def dtype_of(place: Place) -> str:
    """fp32 as far as its products go: then what differs is the files."""
    config = read_json((place.beside or place.folder) / "config.json")
    method = (config.get("quantization_config") or {}).get("quant_method")
    stored = str(config.get("torch_dtype") or config.get("dtype"))
    return stored if method in CODED else str(place.dtype)[6:]


class VLLMReader:
    name = "vllm"
    packages: tuple[str, ...] = ()
    halves_gelu = False

    def open(self, place: Place) -> VLLM:
        path = program(place.python)
        if path is None:
            given = place.python or "PATH"
            raise ExportError("export.reader_failed", where="exports.vllm", reader=self.name, said=f"{given}: no vllm")
        return VLLM(place, path)

    def arithmetic(self, files: Rounding) -> Rounding:
        return "f32"
