"""The machine of a race: hardware, driver, commit, and what the card's clock, power and heat were while it ran."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SMI = "nvidia-smi"
ROOT = Path(__file__).resolve().parent.parent.parent


def about(command: Sequence[str]) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *command]),
        "commit": commit(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "gpu": _smi("name,driver_version,memory.total,clocks.max.sm,power.limit"),
    }


def pretty(tree: Any) -> str:
    """JSON for people: indented, but a list of numbers stays on one line."""
    text = json.dumps(tree, indent=1, ensure_ascii=False)
    return re.sub(r"\[[-\d.,\seE+]+\]", lambda found: " ".join(found[0].split()), text) + "\n"


def commit() -> str:
    """The commit, with a + where the tree was changed since; "unknown" where there is no repository."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    return done.stdout.strip() or "unknown"


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _smi(fields: str) -> str:
    try:
        done = subprocess.run(
            [SMI, f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


class Gauge:
    """Clock, power and heat twice a second, in the background; `between` gives the medians of a window."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, list[float]]] = []
        self._process: subprocess.Popen[str] | None = None
        query = ["--query-gpu=clocks.sm,power.draw,temperature.gpu", "--format=csv,noheader,nounits", "-lms", "500"]
        try:
            self._process = subprocess.Popen([SMI, *query], stdout=subprocess.PIPE, text=True)
        except FileNotFoundError:
            return
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process and self._process.stdout, "started above"
        for line in self._process.stdout:
            try:
                self._seen.append((time.monotonic(), [float(part) for part in line.split(",")]))
            except ValueError:  # a field the card does not have
                continue

    def between(self, start: float, end: float) -> dict[str, float]:
        seen = [values for at, values in self._seen if start <= at <= end]
        if not seen:
            return {}
        clock, power, heat = (statistics.median(column) for column in zip(*seen, strict=True))
        return {"sm_mhz": clock, "watts": round(power), "celsius": heat}

    def close(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()
