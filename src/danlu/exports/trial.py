"""What an artefact takes on this machine: in a process of its own, the program that proved it opens it and answers.

    python -m danlu.exports.trial < ORDER.json

On standard output lines of JSON: {"done": n} for each question answered, and at the end what was found, or
{"refused": why}. A process of its own, because its memory is then the artefact's and the program's alone, and because a
file that a program cannot bear ends this process and not the table.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.core.errors import DanluError
from danlu.core.messages import Language, set_language
from danlu.exports.readers import READERS
from danlu.exports.readers.reader import Place, Reading
from danlu.model.build import DTYPES

MAX_NEW_TOKENS = 24
"""Of an answer that is timed, as in the proof."""
NUM_ROUNDS = 3
"""The best counts: whatever else the machine does can only make a round slower."""
PATIENCE_S = 20.0
"""No further round is begun after that."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to open and what to ask, in token ids: `timed` prompts for the speed, `asked` for what is right."""

    reader: str
    folder: str
    beside: str | None
    dtype: str
    device: str
    context: int
    threads: int
    python: str | None
    timed: list[list[int]]
    asked: list[list[int]]
    max_new_tokens: int
    language: Language

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def place(self) -> Place:
        beside = Path(self.beside) if self.beside else None
        return Place(
            Path(self.folder), beside, DTYPES[self.dtype], torch.device(self.device), self.context, self.python,
            self.threads,
        )  # fmt: skip


def trial(order: Order) -> Iterator[dict[str, Any]]:
    """{"done"} as it goes on; the last is what was found: load_s, tokens_per_s, num_timed_tokens, peak_bytes,
    device_bytes, answers (token ids of each question)."""
    torch.set_num_threads(order.threads)
    reader = READERS.load(order.reader)()
    began = time.perf_counter()
    with contextlib.closing(reader.open(order.place)) as reading:
        load_s = time.perf_counter() - began
        tokens_per_s, num_tokens = speed(reading, order.timed)
        answers = []
        for ids in order.asked:
            answers += reading.continue_ids([ids], order.max_new_tokens)
            yield {"done": 1}
        on_device = torch.cuda.max_memory_allocated() if order.device.startswith("cuda") else None
        yield {
            "load_s": load_s, "tokens_per_s": tokens_per_s, "num_timed_tokens": num_tokens,
            "peak_bytes": peak_bytes(), "device_bytes": on_device, "answers": answers,
        }  # fmt: skip


def speed(reading: Reading, prompts: list[list[int]]) -> tuple[float, int]:
    """Tokens answered a second, one prompt at a time, reading it included; and how many tokens a round is."""
    reading.continue_ids(prompts[:1], MAX_NEW_TOKENS)  # what a program does once, it has done
    best, num_tokens, began = 0.0, 0, time.perf_counter()
    for _ in range(NUM_ROUNDS):
        start = time.perf_counter()
        num_tokens = sum(len(reading.continue_ids([ids], MAX_NEW_TOKENS)[0]) for ids in prompts)
        best = max(best, num_tokens / (time.perf_counter() - start))
        if time.perf_counter() - began > PATIENCE_S:
            break
    return best, num_tokens


def peak_bytes() -> int | None:
    """The most memory that the program took: this process, or those that it started, where the program is one of its
    own. None where the system does not say (`getrusage` would tell the parent's)."""
    found = [_peak_of(pid) for pid in _started() or ["self"]]
    told = [each for each in found if each is not None]
    return sum(told) if told else None


def _started() -> list[str]:
    """Ids of all processes below this one."""
    below: list[str] = []
    ahead = ["self"]
    while ahead:
        for file in Path("/proc", ahead.pop(), "task").glob("*/children"):
            with contextlib.suppress(OSError):  # it has just ended
                found = file.read_text(encoding="ascii").split()
                below += found
                ahead += found
    return below


def _peak_of(pid: str) -> int | None:
    try:
        lines = Path("/proc", pid, "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def main() -> None:
    order = Order(**json.load(sys.stdin))
    set_language(order.language)
    told = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # what programs print is no line of ours
        try:
            for line in trial(order):
                print(json.dumps(line), file=told, flush=True)
        except DanluError as error:
            print(json.dumps({"refused": error.text}), file=told, flush=True)


if __name__ == "__main__":
    main()
