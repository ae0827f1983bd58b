"""One of several processes that train a run together: `python -m danlu.pipeline.rank runs/NAME`.

danlu starts them itself on one machine. On several, torchrun does, with the run folder on a disk that all of them see:

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        -m danlu.pipeline.rank runs/NAME

It reads what torchrun sets (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), sees one card and trains: the
first rank as if it were alone, the others what that one orders.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from danlu.core.errors import DanluError
from danlu.core.messages import say
from danlu.core.progress import Progress
from danlu.run.run import Run

INTERRUPTED, REFUSED = 130, 2


def main() -> int:
    options = _options()
    index, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    see_one_card(local)
    words = _line_to_parent() if options.meet else None
    progress: Progress = Told(words) if words else Printed()
    try:
        _train(options.run, options.device, index, int(os.environ["WORLD_SIZE"]), progress, options.meet)
    except DanluError as error:
        if words:
            words.send(error)
        print(error, file=sys.stderr, flush=True)
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m danlu.pipeline.rank", description="One rank of a run's training.")
    parser.add_argument("run", type=Path, help="the folder of a prepared run, the same for all ranks")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--meet", type=Path, help=argparse.SUPPRESS)  # the file by which danlu's own ranks meet
    return parser.parse_args()


def see_one_card(local: int) -> None:
    """Everything else here speaks of "the card". Before torch looks."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = visible.split(",") if visible is not None else []
    os.environ["CUDA_VISIBLE_DEVICES"] = cards[local] if local < len(cards) else "" if cards else str(local)


def _train(folder: Path, device: str, index: int, size: int, progress: Progress, meet: Path | None) -> None:
    # torch is imported when one card is seen
    from danlu.pipeline.device import choose_device
    from danlu.pipeline.prepare import prepared_stages
    from danlu.pipeline.train import follow_orders, train_stages
    from danlu.training.together import join

    run = Run.open(folder)
    stages = prepared_stages(run)
    with join(choose_device(device), rank=index, size=size, meet=meet) as ranks:
        if index:
            follow_orders(run, stages, device=device, ranks=ranks)
            return
        progress.note(say("ranks.begin", size=ranks.size, device=choose_device(device)))
        with contextlib.nullcontext() if meet else run.acting("train"):  # who started us holds the run
            train_stages(run, stages, device=device, progress=progress, ranks=ranks)


def _line_to_parent() -> Connection:
    """Our output is its, for messages alone; our input ends when it does, and so do we."""
    words = Connection(os.dup(1), readable=False)
    os.dup2(2, 1)  # what a library prints must not come between

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="danlu-parent", daemon=True).start()
    return words


class Told:
    """Progress that is passed on to whoever started us."""

    def __init__(self, words: Connection) -> None:
        self._words = words

    def start(self, what: str, total: int | None = None) -> None:
        self._words.send(("start", (what, total), {}))

    def advance(self, steps: int = 1, **facts: Any) -> None:
        self._words.send(("advance", (steps,), facts))

    def finish(self) -> None:
        self._words.send(("finish", (), {}))

    def note(self, sentence: str) -> None:
        self._words.send(("note", (sentence,), {}))


class Printed:
    """Progress as lines: a sentence each, and one of figures every ten seconds."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._what, self._done, self._total = "", 0, 0

    def start(self, what: str, total: int | None = None) -> None:
        self._what, self._done, self._total, self._next_s = what, 0, total or 0, 0.0

    def advance(self, steps: int = 1, **facts: Any) -> None:
        self._done += steps
        if time.monotonic() >= self._next_s and facts:
            self._next_s = time.monotonic() + 10
            self.note(f"{self._what} {self._done}/{self._total} " + " ".join(f"{k}={v}" for k, v in facts.items()))

    def finish(self) -> None: ...

    def note(self, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a rank whose neighbours are gone may wait for them while it is taken down
