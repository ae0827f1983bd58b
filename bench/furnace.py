"""The furnace on much data: parse, clean, PII, exact and near duplicates, split, per stage, with peak memory.

    python bench/furnace.py --rows 10000 100000 1000000 3000000 [--out bench/results/furnace-2cores.json]
    python bench/furnace.py --stages 20000              # one process, stage by stage, CPU time per row
    python bench/furnace.py --juicer PYTHON --rows 100000    # data-juicer in its own environment, the stages both have

Rows come from furnace_rows.py (seeded; known shares of exact twins, near twins, planted PII). Memory is the sum of
proportional set sizes (Pss) of this process and all its children, sampled twice a second, or as often as takes a
fiftieth of a core (a look walks over all pages), so pages shared by several processes count once; mapped files count
as far as they are in memory. Every size runs in a process of its own. CPU time is that of all processes; what the look
at their memory costs itself is told beside (`watch_cpu_s`) and not part of it. The load of the
machine is printed with each figure: wall time means something on a quiet machine only.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from furnace_rows import write

from danlu.core.files import write_json
from danlu.data.flow.account import Verdicts, fold
from danlu.data.flow.conveyor import convey
from danlu.data.flow.crew import Crew
from danlu.data.flow.passing import Passing
from danlu.data.flow.piece import Places, joined
from danlu.data.flow.plan import Shard, plan_shards
from danlu.data.flow.store import Store
from danlu.data.flow.work import Task, Work
from danlu.data.joined import Texts
from danlu.data.ledger import Ledger
from danlu.data.sources import READERS
from danlu.data.sources.reading import FileReport, read_file
from danlu.data.split import split_columns
from danlu.data.stage import touched
from danlu.data.twins import EXACT, NEAR, Settings, decide
from danlu.data.twins.signatures import signatures
from danlu.pipeline.passing import build_passing
from danlu.recipe.data import DataSection

USAGES = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
SHARED = Path(__file__).parents[2] / "shared" / "data"


class Watch:
    """Peak of the memory of this process and its children."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.cpu_s = 0.0
        self.stopped = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        took = 0.0
        while not self.stopped.wait(max(0.5, 50 * took)):
            before = self.cpu_s
            self.peak_bytes = max(self.peak_bytes, sum(map(_pss, _family(os.getpid()))))
            self.cpu_s = time.thread_time()
            took = self.cpu_s - before

    def used_s(self) -> tuple[float, float]:
        """(user, system) seconds of this process and of children that have ended, without its own."""
        used = [resource.getrusage(one) for one in USAGES]
        user, system = sum(one.ru_utime for one in used), sum(one.ru_stime for one in used)
        return user, system - self.cpu_s  # reading /proc is the system's work


def _family(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        found.append(one := todo.pop())
        todo += children.get(one, [])
    return found


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def whole(path: Path, num_rows: int, folder: Path, workers: int) -> dict[str, Any]:
    """All of it on one file, as `prepare` does it up to the encoder."""
    watch, times, begin = Watch(), {}, time.perf_counter()
    cpu: dict[str, float] = {}
    load, before = os.getloadavg()[0], sum(watch.used_s())

    def lap(name: str) -> None:
        times[name] = round(time.perf_counter() - begin - sum(times.values()), 3)
        cpu[name] = round(sum(watch.used_s()) - before - sum(cpu.values()), 2)

    store = Store(folder / "store")
    with Crew("local", workers, store) as crew:
        plan = plan_shards([path], expect=crew.expect)
        lap("plan")
        passing = build_passing(DataSection.model_validate({"privacy": {"key_file": str(folder / "keys.json")}}))
        found = convey(plan, passing, store, engine="local", num_workers=workers, ready=crew.executor)
    lap("parse, clean, sign, PII")
    columns = [piece.columns for piece in found.pieces]
    alive = joined(found.pieces, "alive")
    decision = decide(columns, settings=Settings(), kept=alive)
    lap("twins")
    verdicts = Verdicts.of(alive, decision, exact="drop", near="drop")
    places = Places.of(found.pieces)
    part, certificate = split_columns(
        columns, decision, kept=verdicts.stays, test=0.1, validation=0.05, seed=3407, name_of=places.name
    )
    lap("split")
    ledger = found.ledger()
    ledger.most = 20_000
    num_rejected = sum(1 for _ in fold(found.pieces, verdicts, ledger))
    lap("ledger")
    watch.stopped.set()
    total = sum(times.values())
    return {
        "rows": num_rows,
        "bytes": path.stat().st_size,
        "seconds": round(total, 2),
        "us_per_row": round(total / num_rows * 1e6, 2),
        "times_s": times,
        "cpu_s": round(sum(watch.used_s()), 2),
        "system_s": round(watch.used_s()[1], 2),
        "watch_cpu_s": round(watch.cpu_s, 2),
        "cpu_of_steps_s": cpu,
        "peak_gb": round(watch.peak_bytes / 1e9, 3),
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "used": ledger.num_used,
        "rejected": num_rejected,
        "parts": {name: int((part == code).sum()) for name, code in (("train", 0), ("validation", 1), ("test", 2))},
        "across": {name: certificate.get(name) for name in ("twins_across", "near_twins_across")},
        "twins": recall(path, decision, alive),
        "funnel": [one.to_json() for one in found.funnel],
    }


def recall(path: Path, decision: Any, alive: Any) -> dict[str, Any]:
    """Planted twins and those found, of all rows that were compared: cleaners had refused some rows before."""
    planted: dict[str, list[int]] = {"exact": [], "near": []}
    for line in path.with_suffix(".truth.jsonl").read_bytes().splitlines():
        entry = orjson.loads(line)
        if entry["what"] in planted:
            planted[entry["what"]].append(entry["row"])
    return {
        "planted": {name: len(numbers) for name, numbers in planted.items()},
        "found": {"exact": int((decision.verdict == EXACT).sum()), "near": int((decision.verdict == NEAR).sum())},
        "compared_rows": len(alive),
    }


def stages(path: Path, folder: Path) -> dict[str, float]:
    """CPU microseconds per row of each stage, in one process, on the file's first shard, best of three. `all` is the
    shard's whole way into the store, which a worker goes, and `rest` what no stage accounts for."""
    passing = build_passing(DataSection.model_validate({"privacy": {"key_file": str(folder / "keys.json")}}))
    shard = plan_shards([path], shard_bytes=1 << 30).shards[0]
    gc.disable()  # as in a worker
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=folder) as store:
        for turn in range(4):
            begin = time.process_time()
            Work(passing, Store(Path(store)))(Task(f"{turn:064}", shard))
            times = {"all": time.process_time() - begin, **_stage_times(shard, passing)}
            gc.collect()
            if turn:  # the first one loads and compiles
                best = {name: min(best.get(name, value), value) for name, value in times.items()}
    num = best.pop("rows")
    best["rest"] = 2 * best["all"] - sum(best.values())
    return {name: round(value / num * 1e6, 2) for name, value in best.items()}


def _stage_times(shard: Shard, passing: Passing) -> dict[str, float]:
    times: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begin = time.process_time()
        made = work()
        times[name] = time.process_time() - begin
        return made

    ledger, report = Ledger(), FileReport(shard.found.name)
    samples = timed("parse", lambda: list(read_file(shard.found, READERS, ledger, report)))
    texts = Texts(samples)
    for stage in passing.stages:
        for row, (sample, _) in timed(stage.name, lambda: touched(stage, texts)).items():  # noqa: B023  called at once
            texts.put(row, sample)
    assert passing.privacy is not None, "privacy is on by default"
    timed("PII", lambda: passing.privacy.look(texts))
    timed("sign", lambda: signatures(texts.alive()))
    return times | {"rows": len(samples)}


JUICER = """
project_name: bench
dataset_path: {path}
export_path: {out}/out.jsonl
np: {workers}
open_tracer: false
text_keys: text
process:
  - fix_unicode_mapper:
  - whitespace_normalization_mapper:
  - clean_email_mapper:
  - clean_ip_mapper:
  - special_characters_filter:
  - character_repetition_filter:
  - text_length_filter:
  - document_deduplicator:
  - document_minhash_deduplicator:
      tokenization: character
      window_size: 5
      jaccard_threshold: 0.7
"""


def juicer(python: str, path: Path, num_rows: int, folder: Path, workers: int) -> dict[str, Any]:
    """data-juicer on the same rows as one text each: what of its stages is nearest to ours."""
    text = folder / "text.jsonl"
    with text.open("wb") as out:
        for line in path.open("rb"):
            row = orjson.loads(line)
            out.write(orjson.dumps({"text": row["instruction"] + "\n" + row["output"]}) + b"\n")
    config = folder / "juicer.yaml"
    config.write_text(JUICER.format(path=text, out=folder, workers=workers))
    watch, begin, load = Watch(), time.perf_counter(), os.getloadavg()[0]
    done = subprocess.run(
        [python, "-m", "data_juicer.tools.process_data", "--config", str(config)], capture_output=True, text=True,
        check=False, cwd=folder, timeout=1200,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    watch.stopped.set()
    said = done.stdout + done.stderr
    times = [
        line for line in said.splitlines() if "] Process [" in line or "Done in" in line or "All Ops are done" in line
    ]
    return {
        "rows": num_rows, "seconds": round(seconds, 2), "us_per_row": round(seconds / num_rows * 1e6, 2),
        "peak_gb": round(watch.peak_bytes / 1e9, 3), "load_before": round(load, 2), "code": done.returncode,
        "stages": times[-20:] if done.returncode == 0 else said.splitlines()[-5:],
        "kept": sum(1 for _ in (folder / "out.jsonl").open()) if (folder / "out.jsonl").is_file() else None,
    }  # fmt: skip


def about() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "")  # fmt: skip
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]), "commit": commit.stdout.strip(),
        "cpu": model, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(),
        "numpy": np.__version__,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[])
    parser.add_argument("--stages", type=int, default=0, help="rows for the stage by stage table")
    parser.add_argument("--juicer", default="", help="the Python of an environment with data-juicer")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "danlu-furnace")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--one", action="store_true", help="run in this process (used by itself)")
    told = parser.parse_args()
    told.folder.mkdir(parents=True, exist_ok=True)
    if told.one:
        (num,) = told.rows
        work = told.folder / f"work-{num}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        print(json.dumps(whole(told.folder / f"rows-{num}.jsonl", num, work, told.workers)))
        shutil.rmtree(work, ignore_errors=True)
        return
    results: dict[str, Any] = about()
    for num in sorted({*told.rows, *([told.stages] if told.stages else [])}):
        path = told.folder / f"rows-{num}.jsonl"
        if not path.is_file():
            results.setdefault("generated", {})[str(num)] = write(path, num, told.seed, told.data)
    if told.stages:
        results["stages_us_per_row"] = stages(told.folder / f"rows-{told.stages}.jsonl", told.folder)
        print(json.dumps(results["stages_us_per_row"]))
    for num in told.rows if not told.juicer else []:
        child = subprocess.run(
            [sys.executable, __file__, "--one", "--rows", str(num), "--workers", str(told.workers),
             "--folder", str(told.folder)], stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        found = json.loads(child.stdout.splitlines()[-1])
        results.setdefault("whole", []).append(found)
        print(
            json.dumps(
                {
                    name: found[name]
                    for name in (
                        "rows",
                        "seconds",
                        "us_per_row",
                        "cpu_s",
                        "system_s",
                        "watch_cpu_s",
                        "times_s",
                        "cpu_of_steps_s",
                        "peak_gb",
                        "load_before",
                        "load_after",
                        "twins",
                    )
                }
            )
        )
    if told.juicer:
        num = told.rows[0]
        with tempfile.TemporaryDirectory() as work:
            results["juicer"] = juicer(told.juicer, told.folder / f"rows-{num}.jsonl", num, Path(work), told.workers)
        print(json.dumps(results["juicer"]))
    if told.out:
        before = json.loads(told.out.read_text()) if told.out.is_file() else {}
        write_json(told.out, before | results)


if __name__ == "__main__":
    main()
