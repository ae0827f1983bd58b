"""The parent of the race: writes token files, runs children in turn, keeps results after each, prints the table.

It holds no device itself and imports no torch, so nothing of it stands beside what is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from race import report, tokens
from race.cases import CASES, PLANS, Case
from race.machine import Gauge, about, pretty
from race.settings import Job
from race.shapes import find_shape

SPARE_S = 12.0
"""No child is begun with less of the budget left."""


@dataclass
class Child:
    """A started process and what it has told so far."""

    job: Job
    round: int
    process: subprocess.Popen[bytes]
    up: Any
    log: Path
    paused_s: float = 0.0
    stopped_at: float | None = None
    told: dict[str, dict[str, Any]] = field(default_factory=dict)

    def stop(self) -> None:
        if self.stopped_at is None and self.process.poll() is None and "imported" not in self.told:
            os.killpg(self.process.pid, signal.SIGSTOP)
            self.stopped_at = time.monotonic()

    def go_on(self) -> None:
        if self.stopped_at is not None:
            os.killpg(self.process.pid, signal.SIGCONT)
            self.paused_s += time.monotonic() - self.stopped_at
            self.stopped_at = None

    def answer(self, **facts: Any) -> None:
        assert self.process.stdin is not None, "a child is spoken to over stdin"
        try:
            self.process.stdin.write((json.dumps(facts) + "\n").encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; its silence is told as a failure

    def kill(self) -> None:
        """Only this child and what it started: it leads a session of its own."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGCONT)
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Course:
    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.plan = given, PLANS[given.plan]
        self.out: Path = given.out.resolve()
        self.shared = Path(tempfile.gettempdir()) / "danlu-race"  # drawn checkpoints and compiled kernels: kept
        self.work = self.shared / f"run-{os.getpid()}"
        self.ends = time.monotonic() + given.budget
        self.results: dict[str, Any] = {"about": about(sys.argv), "cases": {}}
        self.gauge = None if given.device == "cpu" else Gauge()

    def run(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        for name in self.plan.cases:
            self.run_case(self._changed(CASES[name]))
        if self.gauge:
            self.gauge.close()
        shutil.rmtree(self.work, ignore_errors=True)
        print(report.table(self.results))
        print(self._place)

    @property
    def _place(self) -> Path:
        return self.out / f"race-{self.given.plan}.json"

    def run_case(self, case: Case) -> None:
        file = self._write_tokens(case)
        digest = tokens.read(file).sha256
        print(f"\n== {case.name}: {case.shape}, {case.step_tokens} tokens a step, token file {digest[:16]}", flush=True)
        shape = find_shape(case.shape, self.given.layers)
        self.results["cases"][case.name] = kept = {
            "shape": {"name": case.shape, **dataclasses.asdict(shape)},
            "step_tokens": case.step_tokens, "row_tokens": case.row_tokens, "memory_gib": case.memory_gib,
            "supervised_share": case.supervised_share, "token_file": digest,
            "tolerance": {"first": case.first_tolerance, "last": case.last_tolerance}, "runs": [],
        }  # fmt: skip
        upcoming = [(job, number) for number in range(self._rounds) for job in self._jobs(case, file, number)]
        is_beside = not self.given.alone and upcoming[0][0].device == "cuda"  # a CPU has nothing to spare
        ahead: Child | None = None
        for place, (job, number) in enumerate(upcoming):
            if self.ends - time.monotonic() < SPARE_S:
                kept["runs"].append(self._row(job, number, {"error": "left out: the time was up"}))
                continue
            now = ahead or self._start(job, number)
            ahead = self._start(*upcoming[place + 1]) if is_beside and place + 1 < len(upcoming) else None
            facts = self._watch(now, ahead, case.limit_s)
            row = self._row(job, number, facts)
            self._keep_profile(row)
            kept["runs"].append(report.with_rates(row, tokens.read(file), shape))
            print(report.line(kept["runs"][-1]), flush=True)
            self._keep()
        if ahead:
            ahead.kill()
        kept["agreement"] = report.agreement(kept)
        self._keep()

    # ---- one child

    def _start(self, job: Job, number: int) -> Child:
        reading, writing = os.pipe()
        folder = Path(job.folder)
        folder.mkdir(parents=True, exist_ok=True)
        log = self.out / "log.txt"
        job = dataclasses.replace(job, spawned=time.monotonic())
        (folder / "job.json").write_text(job.to_json())
        race = Path(__file__).resolve().parent.parent / "race.py"
        with log.open("ab") as said:
            said.write(f"\n##### {job.case} {job.system} {job.setting.name}\n".encode())
            process = subprocess.Popen(
                [sys.executable, str(race), "child", str(folder / "job.json"), str(writing)],
                stdin=subprocess.PIPE, stdout=said, stderr=subprocess.STDOUT, pass_fds=(writing,),
                start_new_session=True, env=self._environment(job), cwd=self.shared,
            )  # fmt: skip
        os.close(writing)
        os.set_blocking(reading, False)
        return Child(job, number, process, reading, log)

    def _environment(self, job: Job) -> dict[str, str]:
        """Peers get the allocator setting that helps them; danlu and Unsloth set what they want themselves."""
        more = {"PYTHONUNBUFFERED": "1", "TORCHINDUCTOR_CACHE_DIR": str(self.shared / "inductor")}
        if job.system not in ("danlu", "unsloth") and job.device == "cuda":
            more["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        here = [part for part in kept.get("PYTHONPATH", "").split(os.pathsep) if part]
        return kept | more | {"PYTHONPATH": os.pathsep.join(str(Path(part).resolve()) for part in here)}

    def _watch(self, now: Child, ahead: Child | None, limit_s: float) -> dict[str, Any]:
        """Lead one child through its run; the one ahead may import while this one is not being measured."""
        ends = min(time.monotonic() + limit_s, self.ends)
        pipes = selectors.DefaultSelector()
        held = {now.up: b"", **({ahead.up: b""} if ahead else {})}
        for up in held:
            pipes.register(up, selectors.EVENT_READ)
        if "imported" in now.told:
            now.answer(paused_s=now.paused_s)
        window: list[float] = []
        try:
            while "result" not in now.told:
                left = ends - time.monotonic()
                if left <= 0:
                    return {"error": f"stopped after {limit_s:.0f} s"}
                for key, _ in pipes.select(min(left, 1.0)):
                    whose = now if key.fd == now.up else ahead
                    assert whose is not None, "only these two are listened to"
                    data = os.read(key.fd, 1 << 20)
                    if not data:
                        pipes.unregister(key.fd)
                        continue
                    *lines, held[key.fd] = (held[key.fd] + data).split(b"\n")
                    for line in lines:
                        self._hear(whose, json.loads(line), now, ahead, window)
                if now.process.poll() is not None and now.up not in {key.fd for key in pipes.get_map().values()}:
                    break
            facts = now.told.get("result") or {"error": f"ended with status {now.process.wait()}; see the log"}
            if self.gauge and len(window) == 2:
                facts = facts | {"device": self.gauge.between(*window)}
            return facts
        finally:
            pipes.close()
            now.kill()
            os.close(now.up)
            if ahead:
                ahead.go_on()

    def _hear(self, whose: Child, word: dict[str, Any], now: Child, ahead: Child | None, window: list[float]) -> None:
        whose.told[word.pop("what")] = word
        latest = list(whose.told)[-1]
        if whose is not now:
            return
        if latest == "imported":
            now.answer(paused_s=now.paused_s)
        elif latest == "measuring":
            if ahead:
                ahead.stop()
            window.append(time.monotonic())
            now.answer()
        elif latest == "measured":
            window.append(time.monotonic())
            if ahead:
                ahead.go_on()

    # ---- cases and files

    @property
    def _rounds(self) -> int:
        return self.given.rounds or self.plan.rounds

    def _changed(self, case: Case) -> Case:
        """The case as the command line changes it."""
        given, change = self.given, {}
        if given.shape:
            change["shape"] = given.shape
        if given.step_tokens:
            change["step_tokens"] = given.step_tokens
            change["row_tokens"] = case.row_tokens and max(16, case.row_tokens * given.step_tokens // case.step_tokens)
        if given.warm:
            change["num_warm"] = given.warm
        if given.steps:
            change["num_steps"] = given.steps
        return dataclasses.replace(case, **change)

    def _jobs(self, case: Case, file: Path, number: int) -> list[Job]:
        wanted = self.given.systems.split(",") if self.given.systems else self.plan.systems or list(case.settings)
        scale = case.step_tokens / CASES[case.name].step_tokens
        return [
            Job(
                system=system, case=case.name, setting=setting.scaled(scale), token_file=str(file),
                shape_name=case.shape, num_layers=self.given.layers, device=self.given.device or case.device,
                num_threads=self.given.threads,
                step_tokens=case.step_tokens, memory_gib=case.memory_gib, num_warm=case.num_warm,
                num_steps=case.num_steps, num_profiled=self.given.profile,
                folder=str(self.work / f"{case.name}-{system}-{place}-{number}"),
            )
            for system in wanted
            for place, setting in enumerate(case.settings.get(system, ()))
        ]  # fmt: skip

    def _write_tokens(self, case: Case) -> Path:
        num_steps = case.num_warm + case.num_steps + self.given.profile + 1
        shape = find_shape(case.shape)
        if case.row_tokens:
            rows = num_steps * case.step_tokens // case.row_tokens
            lengths, supervised = tokens.rows_of(rows, case.row_tokens, case.supervised_share)
        else:
            mix = tokens.read_mix(Path(__file__).with_name("medical_qa_lengths.json"))
            lengths, supervised = tokens.mix_of((num_steps + 1) * case.step_tokens, mix)
        path = self.work / f"{case.name}.npz"
        tokens.write(
            path, lengths, supervised, vocab_size=shape.vocab_size, step_tokens=case.step_tokens, num_steps=num_steps
        )
        return path

    def _row(self, job: Job, number: int, facts: dict[str, Any]) -> dict[str, Any]:
        return {
            "system": job.system, "setting": job.setting.name, "base": job.setting.base, "round": number + 1,
            "num_warm": job.num_warm, **facts,
        }  # fmt: skip

    def _keep_profile(self, row: dict[str, Any]) -> None:
        """The table of kernels goes into a text file, the shares stay with the results."""
        if kernels := row.pop("kernels", None):
            with (self.out / f"profile-{self.given.plan}.txt").open("a") as file:
                file.write(f"== {row['system']} · {row['setting']} · {json.dumps(row['profile'])}\n{kernels}\n")

    def _keep(self) -> None:
        self._place.write_text(pretty(self.results))
