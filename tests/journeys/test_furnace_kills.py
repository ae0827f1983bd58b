"""kill -9 in the middle of any write of `prepare`: started again, it ends with the very same dataset.

Moments are counted, not timed. Every file that the furnace opens to write, every rename, every folder made or removed
below the folder of runs is one, whatever stage it is of; they are numbered in a run that ends, and others are ended at
some of them: before the step, or within the file's content after so many bytes, as the kernel ends a process whose file
outgrows its limit.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_furnace_flow import digests, prepared, write_folder, write_recipe

from danlu.core.files import read_json
from waiting_kit import PATIENCE_S

pytest.importorskip("pyarrow")
pytest.importorskip("resource", reason="no such limits on this system")

DRIVER = """
import json, os, resource, signal, sys
number, num_bytes, told, runs, *words = sys.argv[1:]
met, number, num_bytes = [], int(number), int(num_bytes)
steps = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}

def watch(event, args):
    if event == "open":
        is_step = isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR)
    else:
        is_step = event in steps
    # what is removed along with its folder is named without it
    if not is_step or (os.path.isabs(path := os.fsdecode(args[0])) and not path.startswith(runs)):
        return
    met.append([event, os.path.relpath(path, runs) if os.path.isabs(path) else path])
    if len(met) != number:
        return
    if event != "open" or num_bytes == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

from danlu.cli.main import app
sys.addaudithook(watch)
try:
    app(words)
finally:
    number = 0
    with open(told, "w") as file:
        json.dump(met, file)
"""


def run(recipe: Path, runs: Path, told: Path, *, number: int = 0, num_bytes: int = 0) -> int:
    """`danlu prepare`, ended at this step, or in its content behind so many bytes; its exit status."""
    runs.mkdir(exist_ok=True)
    words = [str(number), str(num_bytes), str(told), str(runs), "prepare", str(recipe), "--runs", str(runs), "-q"]
    done = subprocess.run([sys.executable, "-c", DRIVER, *words], capture_output=True, check=False, timeout=PATIENCE_S)
    return done.returncode


def check_moments(home: Path, base: Path, num_moments: int, parts: Sequence[str], seed: int) -> None:
    """Ends as many runs, spread over all steps, and one at a step of each of these parts."""
    write_folder(home / "sources", num_files=3, num_rows=60)
    recipe = write_recipe(home, base, more="stages: [pretrain, sft]")
    assert run(recipe, home / "whole", home / "met.json") == 0
    steps: list[Any] = json.loads((home / "met.json").read_text())
    whole, outcome = prepared(recipe, home / "whole")
    expected = digests(whole, outcome)
    draw = random.Random(seed)
    width = len(steps) // num_moments
    numbers = [1 + moment * width + draw.randrange(width) for moment in range(num_moments)]
    numbers += [draw.choice([at for at, (_, path) in enumerate(steps, 1) if part in path]) for part in parts]
    for moment, number in enumerate(numbers):
        num_bytes = draw.choice([0, 1, draw.randrange(2, 5000)])
        runs, (event, path) = home / f"ended-{moment}", steps[number - 1]
        where = f"step {number} of {len(steps)}, {num_bytes} bytes: {event} {path}"
        code = run(recipe, runs, home / "met.json", number=number, num_bytes=num_bytes)
        assert code < 0 or (event == "open" and num_bytes), f"{where}: ended with {code}"
        again, found = prepared(recipe, runs)
        assert digests(again, found) == expected, where
        assert found["rows"] == outcome["rows"] and found["certificate"] == outcome["certificate"], where
        assert not list((runs / ".furnace" / "fresh").glob("*")), where
        assert not list(again.path("dataset").glob(".*")), where
        assert read_json(again.path("ledger.json")) == read_json(whole.path("ledger.json")), where


def test_ended_in_any_write_it_ends_with_the_same_dataset(tmp_path: Path, base: Path) -> None:
    check_moments(tmp_path, base, 2, ["manifest"], seed=3407)


@pytest.mark.slow
def test_ended_in_any_of_many_writes_it_ends_with_the_same_dataset(tmp_path: Path, base: Path) -> None:
    check_moments(
        tmp_path, base, 24, ["fresh", "shards", "1-pretrain", "2-sft", "manifest", "report", "ledger"], seed=11
    )
