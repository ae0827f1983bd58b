"""How a child notes what its system did, and speaks with the parent. The clock runs alike for every system.

A step's time is the distance of two marks in the device's own stream (CUDA events; the clock on a CPU), taken after
each optimizer update; nobody is made to wait inside the measured window but by his own loop.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

import torch

from race.profiled import profiled
from race.settings import Job


class Parent:
    """The line to the parent: one JSON object per line up, one line down. Without a parent it answers itself."""

    def __init__(self, up: int | None) -> None:
        self._up = os.fdopen(up, "w", buffering=1) if up is not None else None

    def tell(self, what: str, **facts: Any) -> None:
        if self._up:
            self._up.write(json.dumps({"what": what, **facts}) + "\n")
        else:
            print(what, json.dumps(facts), flush=True)

    def ask(self, what: str, **facts: Any) -> dict[str, Any]:
        """Tell, and wait for the parent's word."""
        self.tell(what, **facts)
        if not self._up:
            return {}
        line = sys.stdin.readline()
        if not line:
            raise SystemExit("the parent is gone")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Recorder:
    """Every system calls `loaded()` once and `step()` after each update; the rest happens here."""

    def __init__(self, job: Job, parent: Parent) -> None:
        self.job, self.parent = job, parent
        self.facts: dict[str, Any] = {}
        self.number = 0
        self._marks: list[Any] = []
        self._cpu: list[float] = []
        self._losses: list[Any] = []
        self._seen: list[tuple[int, int]] = []
        self._began = time.monotonic()
        self._profile: torch.profiler.profile | None = None

    @property
    def is_cuda(self) -> bool:
        return self.job.device == "cuda"

    def loaded(self, **facts: Any) -> None:
        """The model stands on the device with its adapter; training may begin."""
        self._sync()
        self.facts |= facts
        self.facts["load_s"] = round(time.monotonic() - self._began, 2)
        if self.is_cuda:
            self.facts["model_gib"] = round(torch.cuda.memory_allocated() / 2**30, 3)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self._began = time.monotonic()

    def step(self, loss: Any, num_tokens: int, num_supervised: int) -> bool:
        """After each update. False when the race is over. `loss` may still be on the device."""
        self.number += 1
        self._losses.append(loss.detach() if isinstance(loss, torch.Tensor) else loss)
        self._seen.append((num_tokens, num_supervised))
        if self.number == 1:
            self._sync()
            self.facts["first_step_s"] = round(time.monotonic() - self._began, 2)
        if self.number == self.job.num_warm:
            self._sync()
            self.parent.ask("measuring")
            self._sync()
        timed = self.job.num_warm + self.job.num_steps
        if self.job.num_warm <= self.number <= timed:
            self._mark()
        if self.number == timed:
            self._end_window()
        return self.number < self.job.total_steps

    def _end_window(self) -> None:
        self._sync()
        self.parent.tell("measured")
        if self.is_cuda:
            self.facts["peak_allocated_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
            self.facts["peak_reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 3)
        else:
            self.facts["cpu_s"] = round(self._cpu[-1] - self._cpu[0], 3)
            self.facts["peak_rss_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)
            self.facts["load"] = round(os.getloadavg()[0], 2)
        if self.job.num_profiled:
            self._profile = torch.profiler.profile(activities=list(torch.profiler.supported_activities()))
            self._profile.start()

    def finish(self) -> dict[str, Any]:
        """All facts of the run, after the last step."""
        self._sync()
        assert self.number == self.job.total_steps, f"{self.number} of {self.job.total_steps} steps were run"
        if self._profile:
            self._profile.stop()
            self.facts |= profiled(self._profile, self.job.num_profiled)
        return {
            **self.facts,
            "step_ms": [round(ms, 3) for ms in self._times()],
            "losses": [round(float(loss), 5) for loss in self._losses],
            "tokens": [tokens for tokens, _ in self._seen],
            "supervised": [supervised for _, supervised in self._seen],
        }

    def _sync(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def _mark(self) -> None:
        if self.is_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())
            self._cpu.append(time.process_time())

    def _times(self) -> list[float]:
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if self.is_cuda:
            return [a.elapsed_time(b) for a, b in pairs]
        return [1000 * (b - a) for a, b in pairs]
