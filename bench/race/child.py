"""One child process of the race: one system, one case. `race.py` starts it; it answers over a pipe."""

from __future__ import annotations

import importlib
import os
import time
import traceback
from importlib import metadata
from typing import Any

from race.settings import Job
from race.systems import SYSTEMS

PACKAGES = (
    "torch", "triton", "transformers", "peft", "accelerate", "trl", "unsloth", "unsloth_zoo", "liger_kernel",
    "bitsandbytes", "torchao", "llamafactory", "flash_attn", "xformers",
)  # fmt: skip
QUIET = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1",
}  # fmt: skip


def main(text: str, up: int | None) -> None:
    os.environ.update(QUIET)
    job = Job.from_json(text)
    system, failure = load_system(job.system)
    imported = time.monotonic() - job.spawned
    from race.recorder import Parent, Recorder  # torch: a system that wants to come before it has come

    parent = Parent(up)
    try:
        if failure is not None:
            raise failure
        answer = parent.ask("imported")
        prepare_device(job)
        recorder = Recorder(job, parent)
        recorder.facts["import_s"] = round(imported - float(answer.get("paused_s", 0.0)), 2)
        recorder.facts["token_file"] = job.tokens().sha256
        system.run(job, recorder)
        parent.tell("result", **recorder.finish(), versions=versions())
    except Exception as error:  # any failure of a peer is a row of the table, told with its reason
        traceback.print_exc()
        name = "out of memory" if "out of memory" in str(error).lower() else type(error).__name__
        parent.tell("result", error=f"{name}: {error}"[:600])


def load_system(name: str) -> tuple[Any, Exception | None]:
    """The system's module, its heavy imports done, or why not."""
    try:
        return importlib.import_module(SYSTEMS[name]), None
    except Exception as error:
        return None, error


def prepare_device(job: Any) -> None:
    import torch

    if job.num_threads:
        torch.set_num_threads(job.num_threads)
    if job.device == "cuda" and job.system != "danlu":  # which sets its allocator before the device is touched
        torch.cuda.init()


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
