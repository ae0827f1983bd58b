"""examine: a run put to other people's suites, base and tuned side by side, each item paired as in `evaluate`.

The harness runs in an environment of its own and asks over HTTP: a small server on this machine's loopback around both
models, or a server of the user's. The server's self-test comes first, and likelihood tasks are refused where it does
not give likelihoods. Writes examine.json beside the harness's own output.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.errors import EvaluationError
from danlu.core.files import write_json
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.engines.loopback import Loopback
from danlu.engines.remote import Endpoint
from danlu.engines.self_test import self_test
from danlu.evaluation.harnesses import HARNESSES
from danlu.evaluation.harnesses.harness import Answered, Harness, Order, paired_items, section_of
from danlu.evaluation.stats import holm
from danlu.run.run import Run

EXAMINED = "examine.json"
TAIL_CHARS = 1500
_OURS = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
"""What would make another environment's Python load this one's packages."""
_SECRETS = ("_API_KEY", "_SECRET", "_SECRET_KEY", "_SECRET_ACCESS_KEY", "_PASSWORD", "_ACCESS_TOKEN")


@dataclass(frozen=True, slots=True)
class Hall:
    """Which harness, where it lives and what it asks. Without `url` the run's own two models are served here."""

    harness: str
    python: Path
    tasks: tuple[str, ...]
    limit: int | None = None
    scores: bool = False
    include: Path | None = None
    url: str | None = None
    base_model: str = "base"
    tuned_model: str = "tuned"
    num_parallel: int = 8
    timeout_s: float = 24 * 3600.0


def examine(run: Run, hall: Hall, *, device: str = "auto", progress: Progress | None = None) -> dict[str, Any]:
    """Both models through the harness; the JSON that is kept as examine.json."""
    progress = progress or Silent()
    harness = HARNESSES.load(hall.harness, where="--with")()
    for task in hall.tasks:
        if not task.strip() or task.startswith("-"):
            raise EvaluationError("harness.no_task", where="--task", given=task)
    check_python(harness, hall.python)
    with run.acting("examine"), _served(run, hall, device, progress) as (url, tokenizer):
        answered: dict[str, list[Answered]] = {}
        tests: dict[str, Any] = {}
        for side, model in (("base", hall.base_model), ("tuned", hall.tuned_model)):
            found = self_test(Endpoint(url, model, num_parallel=hall.num_parallel))
            found.require(scores=hall.scores)
            tests[side] = found.to_json()
            folder = run.path("examined", hall.harness, side)
            shutil.rmtree(folder, ignore_errors=True)
            order = Order(
                hall.python, url, model, hall.tasks, folder, hall.limit, hall.num_parallel, hall.scores, tokenizer,
                hall.include, run.recipe.evaluation.max_new_tokens,
            )  # fmt: skip
            progress.start(say("harness.asking", harness=harness.name, model=model), None)
            ask(harness, order, timeout_s=hall.timeout_s, environment=environment(os.environ, hall.url))
            progress.finish()
            answered[side] = harness.read(folder)
        sections = {
            task: section_of(items, base, tuned)
            for task, (items, base, tuned) in paired_items(answered["base"], answered["tuned"]).items()
        }
        if not sections:
            raise EvaluationError("harness.none_shared", where=str(run.path("examined")), given=harness.name)
        adjusted = holm({task: section["difference"]["p"] for task, section in sections.items()})
        for task, section in sections.items():
            section["p_adjusted"] = adjusted[task]
        examined = {"harness": harness.name, "tasks": sections, "self_test": tests,
                    "num_read": {side: len(rows) for side, rows in answered.items()}}  # fmt: skip
        write_json(run.path(EXAMINED), examined)
        return examined


def check_python(harness: Harness, python: Path) -> None:
    """EvaluationError saying how to set the environment up."""
    module = harness.program.partition("[")[0].replace("-", "_")
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        # the user's own interpreter, named on the command line; no shell
        is_there = subprocess.run(  # noqa: S603
            [str(python), "-c", code], capture_output=True, timeout=120, stdin=subprocess.DEVNULL,
            env=environment(os.environ, None),
        ).returncode == 0  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        is_there = False
    if not is_there:
        raise EvaluationError("harness.not_installed", where=str(python), given=harness.name, program=harness.program)


def environment(given: Mapping[str, str], url: str | None) -> dict[str, str]:
    """What of the environment a suite gets: neither this Python's paths nor, but for what a server of the user's and
    data sets may want, keys; the loopback is reached without a proxy."""
    found = {
        name: value
        for name, value in given.items()
        if name not in _OURS and (not name.upper().endswith(_SECRETS) or (url is not None and name == "OPENAI_API_KEY"))
    }
    around = ",".join(filter(None, (found.get("no_proxy") or found.get("NO_PROXY"), "127.0.0.1,localhost")))
    return found | {"no_proxy": around, "NO_PROXY": around} | ({"OPENAI_API_KEY": "EMPTY"} if url is None else {})


def ask(harness: Harness, order: Order, *, timeout_s: float, environment: Mapping[str, str] | None = None) -> None:
    """Run it, with everything it starts. What it said lies in `danlu.log` under the folder; its last words are in the
    error."""
    order.folder.mkdir(parents=True, exist_ok=True)
    words = harness.command(order)
    log = order.folder / "danlu.log"
    began = time.monotonic()
    with log.open("wb") as file:
        asking = subprocess.Popen(  # noqa: S603 - the user's own interpreter; no shell, and nobody to answer its questions
            words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env=None if environment is None else dict(environment),
        )  # fmt: skip
        try:
            code = asking.wait(timeout_s)
        except subprocess.TimeoutExpired as fault:
            raise EvaluationError("harness.too_slow", where=str(log), given=harness.name, limit=timeout_s) from fault
        finally:  # too slow or Ctrl-C: its workers would go on asking
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(asking.pid, signal.SIGKILL)
            asking.wait()
    if code != 0:
        tail = log.read_text(encoding="utf-8", errors="replace")[-TAIL_CHARS:]
        raise EvaluationError(
            "harness.failed", where=str(log), given=harness.name, code=code, said=tail,
            seconds=f"{time.monotonic() - began:.0f}",
        )  # fmt: skip


@contextlib.contextmanager
def _served(run: Run, hall: Hall, device: str, progress: Progress) -> Iterator[tuple[str, Path | None]]:
    """The URL to ask, and the tokenizer's folder."""
    if hall.url is not None:
        yield hall.url, None
        return
    from danlu.pipeline.open_engine import open_engines  # torch: not where a server of the user's is asked

    engines = open_engines(run, device=device, progress=progress)
    with Loopback({hall.base_model: engines.base, hall.tuned_model: engines.tuned}) as server:
        yield server.url, engines.tuned.model.folder


def lines_of(examined: dict[str, Any]) -> Sequence[tuple[str, ...]]:
    """One row a task, as a table shows it: task, items, base, tuned, difference with interval, adjusted p."""
    rows = []
    for task, section in examined["tasks"].items():
        difference = section["difference"]
        low, high = difference["interval"]
        sides = [section[side].get("mean", section[side]["accuracy"]) for side in ("base", "tuned")]
        rows.append((task, str(section["base"]["num_items"]), *(f"{value:.1%}" for value in sides),
                     f"{100 * difference['value']:+.1f} ({100 * low:+.1f} … {100 * high:+.1f})",
                     f"{section['p_adjusted']:.3g}"))  # fmt: skip
    return rows
