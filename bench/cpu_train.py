"""Training speed on a CPU: ember on the demo company's questions, as `danlu demo` trains it, without its validations.

    python bench/cpu_train.py [--adapter lora|full] [--threads 2] [--steps 20] [--profile]

Prints one JSON object: real tokens per wall second, per CPU second of the process and in its best step, the last step's
loss, peak memory. Wall time means something on a quiet machine only, so the load is printed too. Results with hardware
and commit are committed as results/cpu-train.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from danlu.data.dataset import Dataset
from danlu.pipeline.demo import company_folder, demo_recipe, peak_memory_bytes
from danlu.pipeline.device import describe_hardware
from danlu.pipeline.loading import load_base
from danlu.pipeline.prepare import prepare
from danlu.pipeline.train import build_adapter
from danlu.recipe import Recipe
from danlu.recipe.adapter import FullSection
from danlu.run.run import Run
from danlu.training.methods.sft import SFT
from danlu.training.trainer import Trainer

NUM_WARM = 3


def recipe_of(adapter: str) -> Recipe:
    """The demo's recipe on its questions alone: no file beside them may change what is measured."""
    tree = demo_recipe(full=False).model_dump(mode="json", exclude_unset=True)
    tree["data"] = {"sources": [str(company_folder() / "qa.jsonl")], "split": {"test": 0.0, "validation": 0.0}}
    tree["training"] |= {"save_every": 10**6}
    return Recipe.from_tree(tree | ({"adapter": {"kind": "full"}} if adapter == "full" else {}))


def open_trainer(adapter: str, folder: Path) -> Trainer:
    recipe = recipe_of(adapter)
    dataset: Dataset = prepare(Run.create(recipe, folder / "runs")).stages[-1].dataset
    section = recipe.plan_stages()[-1].training
    if isinstance(recipe.adapter, FullSection):
        section = section.model_copy(update={"lr": 2e-4})
    model = load_base(recipe.model, seed=section.seed, device="cpu")
    attached = build_adapter(recipe.adapter, section.seed).attach(model)
    return Trainer(model, attached, SFT(), dataset, section=section, folder=folder / "checkpoints")


def measure(trainer: Trainer, num_steps: int) -> dict[str, Any]:
    steps = trainer.steps()
    for _ in islice(steps, NUM_WARM):
        pass
    wall, cpu, num_tokens, best = time.perf_counter(), time.process_time(), 0, 0.0
    before = cpu
    for step in islice(steps, num_steps):
        num_tokens += step.num_tokens
        after = time.process_time()
        best, before = max(best, step.num_tokens / (after - before)), after
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "tokens_per_wall_s": round(num_tokens / wall_s),
        "tokens_per_cpu_s": round(num_tokens / cpu_s),
        "best_tokens_per_cpu_s": round(best),
        "loss": round(step.loss, 5),
        "steps": num_steps,
        "tokens_per_step": round(num_tokens / num_steps),
    }


def profile(trainer: Trainer, num_steps: int) -> str:
    """Where the time goes, by operation."""
    steps = trainer.steps()
    for _ in islice(steps, NUM_WARM):
        pass
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as found:
        for _ in islice(steps, num_steps):
            pass
    table = found.key_averages(group_by_input_shape=False).table(sort_by="self_cpu_time_total", row_limit=40)
    return str(table)


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", choices=["lora", "full"], default="lora")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        trainer = open_trainer(given.adapter, Path(folder))
        if given.profile:
            print(profile(trainer, given.steps))
            return
        load = os.getloadavg()[0]
        facts = measure(trainer, given.steps)
    about = {
        "adapter": given.adapter,
        "threads": given.threads,
        "hardware": describe_hardware("cpu"),
        "commit": commit(),
    }
    print(json.dumps(about | facts | {"peak_memory_bytes": peak_memory_bytes(), "load_before": round(load, 2)}))


if __name__ == "__main__":
    main()
